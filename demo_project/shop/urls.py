"""The addresses of the shop. Each page has two: with its form, and with the job that it sent."""

from __future__ import annotations

from django.urls import URLPattern, path, re_path

from demo_project.shop import views


def addresses(page: type[views.JobPage]) -> list[URLPattern]:
    view = page.as_view()
    return [path(f"{page.slug}/", view, name=page.slug), path(f"{page.slug}/<str:job_id>/", view, name=page.slug)]


urlpatterns = [
    path("", views.Start.as_view(), name="start"),
    path("jobs/<str:job_id>.json", views.job_standing, name="job_standing"),
    # Mails lie below MEDIA_ROOT too, and are not for everybody.
    re_path(r"^files/(?P<name>(?:exports|thumbnails)/[\w.-]+)$", views.download, name="download"),
    *(address for page in views.PAGES for address in addresses(page)),
]
