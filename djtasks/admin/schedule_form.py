"""The form of a schedule: what stands beside its fields, and what is said of a schedule while it is typed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final
from zoneinfo import available_timezones

from django import forms
from django.conf import settings as django_settings
from django.db import connections
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from djtasks import registry
from djtasks.admin.schedule_presentation import in_words, ticks
from djtasks.conf import settings
from djtasks.models import PeriodicTask, statements
from djtasks.schedules import describe, from_text

PREVIEWED: Final = ("schedule", "timezone", "start_at", "end_at", "one_off", "max_runs")
WHAT: Final = ("name", "task", "enabled")
WHEN: Final = ("schedule", "timezone", "coming")
WITH: Final = ("args", "kwargs", "headers")
HOW: Final = (("queue", "priority"), ("expires", "jitter"))
UNTIL: Final = (("start_at", "end_at"), ("one_off", "max_runs"))
MISSED: Final = ("catch_up", "misfire_grace", "overlap")
EXAMPLES: Final = (
    "*/15 * * * *",
    "30 9 * * 1-5",
    "0 0 1 * *",
    "* * * * * */10",
    "@daily",
    "every 1h30m",
    "every day",
    "at 2030-01-31T09:00:00+00:00",
)
_EMPTY: Final = {"args": "[]", "kwargs": "{}", "headers": "{}"}
_Fieldsets = list[tuple[Any, dict[str, Any]]]


class SuggestingInput(forms.TextInput):
    """A text with suggestions, any other text being welcome; `names` is asked whenever it is shown."""

    def __init__(self, names: Callable[[], Iterable[str]], attrs: dict[str, Any] | None = None) -> None:
        super().__init__({"autocomplete": "off", "spellcheck": "false", **(attrs or {})})
        self.names = names

    def render(self, name: str, value: Any, attrs: dict[str, Any] | None = None, renderer: Any = None) -> SafeString:
        list_id = f"{(attrs or {}).get('id', name)}_suggestions"
        options = format_html_join("", '<option value="{}"></option>', ((each,) for each in self.names()))
        text = super().render(name, value, {**(attrs or {}), "list": list_id}, renderer)
        return format_html('{}<datalist id="{}">{}</datalist>', text, list_id, options)


@cache
def zone_names() -> tuple[str, ...]:
    """The zones that this machine knows, without doublets of old."""
    return tuple(sorted(name for name in available_timezones() if "/" in name or name == "UTC"))


def examples() -> SafeString:
    """Schedules as they are written and what they mean; where scripts run, a click takes one over."""
    rows = ((text, describe(from_text(text))) for text in EXAMPLES)
    each = '<li><code data-djtasks-example="{0}">{0}</code> <span>{1}</span></li>'
    return format_html(
        '<p>{}</p><ul class="djtasks-examples">{}</ul>',
        _(
            "Five fields as in a crontab: minute, hour, day of month, month, day of week; a sixth one is for seconds. "
            "A day must fit both of its fields. Or “every” and a span of time, or “at” and a time with its offset "
            "from UTC."
        ),
        format_html_join("", each, rows),
    )


def fieldsets(row: PeriodicTask | None, *, is_fixed: bool, may_read: bool) -> _Fieldsets:
    """The form in parts; with `is_fixed` arguments are shown masked, and to those who may read them only."""
    arguments: tuple[Any, ...] = WITH
    note: Any = gettext_lazy("JSON. What JSON has no word for, a date for example, is better made by the task itself.")
    if is_fixed:
        arguments = ("shown_arguments", "shown_headers") if may_read else ("hidden_arguments",)
        note = ""
    narrow = {"classes": ["collapse"]}
    return [
        (None, {"fields": WHAT}),
        (gettext_lazy("When"), {"fields": tuple(name for name in WHEN if name != "coming" or not is_fixed)}),
        (gettext_lazy("Arguments"), {"fields": arguments, "description": note}),
        (gettext_lazy("Beginning and end"), {"fields": UNTIL, **_unless(row, narrow, _is_bounded)}),
        (gettext_lazy("Missed and overlapping runs"), {"fields": MISSED, **narrow}),
        (gettext_lazy("Its jobs"), {"fields": HOW, **_unless(row, narrow, _is_special)}),
    ]


def _unless(row: PeriodicTask | None, narrow: dict[str, Any], says: Callable[[PeriodicTask], bool]) -> dict[str, Any]:
    return {} if row is not None and says(row) else narrow


def _is_bounded(row: PeriodicTask) -> bool:
    return bool(row.start_at or row.end_at or row.one_off or row.max_runs is not None)


def _is_special(row: PeriodicTask) -> bool:
    return bool(row.queue or row.priority is not None or row.expires is not None or row.jitter)


class ScheduleForm(forms.ModelForm):  # type: ignore[type-arg]  # no generic at run time
    """A schedule's definition; what may stand in it is the model's to say."""

    class Meta:
        model = PeriodicTask
        fields = (*WHAT, "schedule", "timezone", *WITH, *HOW[0], *HOW[1], *UNTIL[0], *UNTIL[1], *MISSED)
        widgets = {
            "task": SuggestingInput(registry.names, {"class": "vLargeTextField djtasks-code"}),
            "schedule": forms.TextInput({"class": "vTextField djtasks-code", "spellcheck": "false"}),
            "timezone": SuggestingInput(zone_names, {"class": "vTextField"}),
            **{
                name: forms.Textarea({"class": "vLargeTextField djtasks-code", "rows": 2, "spellcheck": "false"})
                for name in WITH
            },
        }
        help_texts = {
            "name": gettext_lazy("Runs are listed under this name: with a new one the list begins anew."),
            "task": gettext_lazy("The name under which workers know the task. One that only they know is fine, too."),
            "enabled": gettext_lazy("What is due while it is disabled is not made up for."),
            "args": gettext_lazy("A list, such as <code>[7, &quot;monthly&quot;]</code>."),
            "kwargs": gettext_lazy("An object, such as <code>{&quot;page&quot;: 1}</code>."),
            "headers": gettext_lazy("An object; the task finds it in <code>self.request.headers</code>."),
            "queue": gettext_lazy("Empty: the queue that the routes or the task name."),
            "priority": gettext_lazy("From -100 to 100, higher runs first. Empty: what the task says."),
            "expires": gettext_lazy("A job that no worker has begun by then does not run. Empty: never."),
            "jitter": gettext_lazy("Each run is put off by a random time of up to so many seconds."),
            "one_off": gettext_lazy("It is disabled after its next run."),
            "max_runs": gettext_lazy("In all, those before today included. Empty: no limit."),
            "catch_up": gettext_lazy("What is done about the runs that were due while no beat was awake."),
            "misfire_grace": gettext_lazy("What was missed longer ago is not made up for. Empty: however long ago."),
            "overlap": gettext_lazy("If not, a run is left out while the job before it has not ended."),
        }

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for name in WITH:
            if name in self.fields:
                self.fields[name].required = False
        for name in ("start_at", "end_at"):
            self._prepare_time(name)
        if "schedule" in self.fields:
            self.fields["schedule"].help_text = examples()
        if "timezone" in self.fields:
            self.fields["timezone"].help_text = _("In which times of the day are meant. Empty: %(zone)s.") % {
                "zone": settings.TIMEZONE or django_settings.TIME_ZONE
            }

    def _prepare_time(self, name: str) -> None:
        if name not in self.fields:
            return
        self.fields[name].help_text = _("In this site’s time zone: %(zone)s.") % {
            "zone": timezone.get_current_timezone_name()
        }
        moment = self.initial.get(name)
        if moment is not None and not django_settings.USE_TZ:  # Django would show UTC and read local time
            self.initial[name] = timezone.make_naive(moment, timezone.get_default_timezone())

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or self.cleaned_data
        return values | {name: text for name, text in _EMPTY.items() if name in values and not values[name].strip()}


@dataclass(slots=True)
class Preview:
    """What is said of a schedule before it is stored: `words` and the next runs, or `errors`, and a `note`."""

    words: str = ""
    zone: str = ""
    ticks: list[tuple[str, str, str]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    note: str = ""
    is_over: bool = False


def preview(form: forms.ModelForm[PeriodicTask], stored: PeriodicTask | None, task: str) -> Preview:
    """What the bound `form` of the fields PREVIEWED would make; `stored` is the row as it stands, if there is one."""
    shown = Preview(note=note_on(task))
    if not form.data.get("schedule", "").strip():
        return shown
    if not form.is_valid():
        for name, texts in form.errors.items():
            label = form.fields[name].label if name in form.fields else ""
            shown.errors += [f"{label}: {text}" if name != "schedule" and label else str(text) for text in texts]
        return shown
    return of_row(_as_if_stored(form.instance, stored), shown)


def of_row(row: PeriodicTask, shown: Preview | None = None) -> Preview:
    """What is said of a row whose schedule can be read; for one that is broken nothing is."""
    shown = shown or Preview()
    if row.problem is None:
        shown.words, shown.zone = in_words(row), row.zone.key
        shown.ticks = ticks(row.upcoming())
        shown.is_over = not shown.ticks
    return shown


def note_on(task: str) -> str:
    """A word of warning about a task that nobody has declared here; '' if all is well."""
    if not task or registry.find(task) is not None:
        return ""
    return _("No task of the name “%(task)s” is known to this process. A worker must know it, or its jobs fail.") % {
        "task": task
    }


def _as_if_stored(row: PeriodicTask, stored: PeriodicTask | None) -> PeriodicTask:
    """The row with the next run that it would have; an interval that is not changed goes on as it does."""
    row.normalise()
    if stored is not None and stored.status == "live" and all(_same(row, stored, name) for name in PREVIEWED):
        return stored
    row.problem, row.enabled, row.gone = None, True, False
    now = statements.now(connections[settings.DATABASE])
    row.next_run_at = None if row.is_used_up else row.series.first(now)
    return row


def _same(row: PeriodicTask, stored: PeriodicTask, name: str) -> bool:
    return bool(getattr(row, name) == getattr(stored, name))
