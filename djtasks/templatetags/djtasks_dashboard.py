"""The dashboard in the template of the app's index.

Django imports this wherever the app is installed, so the admin, which not each site has, comes by its names.
"""

from __future__ import annotations

from typing import Any

from django import template
from django.utils.module_loading import import_string

from djtasks.models import Job

register = template.Library()


@register.simple_tag(takes_context=True)
def djtasks_dashboard(context: template.Context) -> dict[str, Any] | None:
    """What the dashboard needs; None for those who may see no jobs, or where a site shows jobs in a way of its own."""
    request = context.get("request")
    view = getattr(getattr(request, "resolver_match", None), "func", None)
    site = getattr(view, "admin_site", None)
    job_admin = site._registry.get(Job) if site is not None else None
    if not isinstance(job_admin, import_string("djtasks.admin.JobAdmin")) or not job_admin.has_view_permission(request):
        return None
    found: dict[str, Any] = import_string("djtasks.admin.dashboard.context_of")(job_admin, request)
    return found
