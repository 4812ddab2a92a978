"""What an action on a queue or a worker has in common: how it is shown, who may do it, and the form that it asks by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib.admin.models import CHANGE
from django.http import HttpRequest
from django.utils.functional import Promise

from djtasks.message import checked_queue

Values = Mapping[str, Any]  # what a form has cleaned


class SubjectForm(forms.Form):
    """A form of an action on one `subject`, a queue or a worker."""

    def __init__(self, data: Any, *, subject: Any) -> None:
        super().__init__(data)
        self.subject = subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One thing that can be done to what has a name; `act` takes that name and what the form has cleaned."""

    name: str  # in URLs
    label: Promise | str  # on a button
    explanation: Promise | str
    note: Promise | str  # in the log
    permission: str
    act: Callable[[str, Values], Any]
    form: type[SubjectForm] | None = None
    flag: int = CHANGE

    def is_allowed(self, request: HttpRequest) -> bool:
        """Whether whoever asks may do it."""
        return request.user.is_active and request.user.has_perm(f"djtasks.{self.permission}")

    def form_for(self, request: HttpRequest, subject: Any) -> SubjectForm | None:
        """The form to ask by, bound to what was posted; None if there is nothing to fill in."""
        data = request.POST if request.method == "POST" else None
        return self.form(data, subject=subject) if self.form else None

    def values(self, request: HttpRequest, form: SubjectForm | None) -> Values | None:
        """What to do it with; None if it is not to be done yet."""
        if request.method != "POST" or (form is not None and not form.is_valid()):
            return None
        return form.cleaned_data if form is not None else {}


def valid_queue(name: str) -> str:
    """The name, if a queue can have it. Raises ValidationError."""
    try:
        return checked_queue(name)
    except ValueError as error:
        raise forms.ValidationError(str(error)) from error
