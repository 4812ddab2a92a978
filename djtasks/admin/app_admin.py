"""What the pages of all models have in common: their addresses, their context, and who may not write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ClassVar, TypeVar, cast

from django.contrib import admin
from django.contrib.admin.utils import quote
from django.contrib.admin.views.main import ChangeList
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from djtasks.models import Job
from djtasks.models.managers import showing

View = TypeVar("View", bound=Callable[..., Any])


def only_shows(view: View) -> View:
    """A view of an admin that decides nothing while it answers a GET: it reads where routers let jobs be read."""

    @wraps(view)
    def answer(self: AppAdmin, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        if request.method not in ("GET", "HEAD"):
            return view(self, request, *args, **kwargs)
        with showing(Job):
            return view(self, request, *args, **kwargs)

    return cast(View, answer)


class AppAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # no generic at run time
    """The pages of one of the app's models, on any admin site."""

    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER

    class Media:
        css: ClassVar[dict[str, list[str]]] = {"all": ["djtasks/admin.css"]}
        js: ClassVar[list[str]] = ["djtasks/admin.js"]

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        """The list; where nothing is sought or filtered, not with "7 results (Show all)" beside the search."""
        found = super().get_changelist_instance(request)
        if not found.query and not found.has_active_filters:
            found.full_result_count = found.result_count
        return found

    def url(self, name: str, *args: str) -> str:
        """The address of a page of this model on this admin site."""
        return reverse(
            f"admin:{self.opts.app_label}_{self.opts.model_name}_{name}",
            args=[quote(each) for each in args],
            current_app=self.admin_site.name,
        )

    def page_context(self, request: HttpRequest) -> dict[str, Any]:
        """What the templates of Django's own pages need."""
        return {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "media": self.media,
            "has_view_permission": self.has_view_permission(request),
            "changelist_url": self.url("changelist"),
        }

    def response(
        self, request: HttpRequest, template: str | list[str], context: Mapping[str, Any], *, status: int = 200
    ) -> HttpResponse:
        """A page of this model."""
        request.current_app = self.admin_site.name  # as Django's own views do
        return TemplateResponse(request, template, {**self.page_context(request), **context}, status=status)

    def paths_of_one(self, views: Mapping[str, Callable[..., HttpResponse]]) -> list[URLPattern]:
        """The addresses of what may be done to one object, by the name that stands behind its id."""
        return [
            path(
                f"<path:object_id>/{name}/",
                self.admin_site.admin_view(view),
                name=f"{self.opts.app_label}_{self.opts.model_name}_{name}",
            )
            for name, view in views.items()
        ]

    def url_elsewhere(self, request: HttpRequest, model: type[Model], page: str, *args: Any) -> str:
        """The address of a page of another of the app's models; '' for those who may not see it."""
        model_admin = self.admin_site._registry.get(model)
        if model_admin is None or not model_admin.has_view_permission(request):
            return ""
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}"
        return reverse(name, args=[quote(each) for each in args], current_app=self.admin_site.name)


class ReadOnlyAdmin(AppAdmin):
    """Nothing is added or changed by hand."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class LookOnlyAdmin(ReadOnlyAdmin):
    """Nothing is deleted by hand either."""

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def jobs_link(self, parameter: str, value: str) -> SafeString:
        """A link to the jobs that have `value`."""
        address = reverse("admin:djtasks_job_changelist", current_app=self.admin_site.name)
        return format_html('<a href="{}?{}">{}</a>', address, urlencode({parameter: value}), _("Jobs"))
