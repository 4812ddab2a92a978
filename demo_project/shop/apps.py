"""The Django app of the shop."""

from __future__ import annotations

from django.apps import AppConfig


class ShopConfig(AppConfig):
    name = "demo_project.shop"
    verbose_name = "The demo shop"
    default_auto_field = "django.db.models.BigAutoField"
