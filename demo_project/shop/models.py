"""Who has signed up."""

from __future__ import annotations

from django.db import models


class Customer(models.Model):
    """Somebody who has signed up."""

    name = models.CharField(max_length=100)
    email = models.EmailField(unique=True)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.name} <{self.email}>"
