"""The addresses of the demo site."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.staticfiles.views import serve
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", include("demo_project.shop.urls")),
    # With DEBUG off too, so that the demo needs no second server; a real site leaves that to its web server.
    path("static/<path:path>", serve, {"insecure": True}),
]
