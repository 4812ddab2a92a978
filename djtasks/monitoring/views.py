"""The view that Prometheus scrapes: `path("djtasks/metrics", djtasks.monitoring.views.metrics)`."""

from __future__ import annotations

from typing import Any

from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from djtasks.conf import settings
from djtasks.monitoring.site import SiteCollector

_registry = CollectorRegistry(auto_describe=False)
_registry.register(SiteCollector())


@never_cache
@require_safe
def metrics(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
    """How the whole site stands, for Prometheus. For who brings `METRICS_TOKEN`, or may view metrics in the admin."""
    if not _may_see(request):
        return HttpResponse(
            "Not for you.\n", content_type="text/plain", status=401, headers={"WWW-Authenticate": "Bearer"}
        )
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    try:
        return HttpResponse(encode(_registry), content_type=content_type)
    except (DatabaseError, InterfaceError):
        return HttpResponse("The database does not answer.\n", content_type="text/plain", status=503)


def _may_see(request: HttpRequest) -> bool:
    if (expected := settings.metrics_token) is not None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and constant_time_compare(token.strip(), expected):
            return True
    user = getattr(request, "user", None)
    return bool(user and user.is_active and user.is_staff and user.has_perm("djtasks.view_metric"))
