"""The schedule of a task, one row each."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import islice
from typing import Any, Final, Self
from zoneinfo import ZoneInfo

from django.conf import settings as django_settings
from django.core.exceptions import ValidationError
from django.db import connections, models, transaction
from django.utils.translation import gettext_lazy as _

from djtasks import encoding
from djtasks.conf import settings
from djtasks.models import advancing, definition, statements
from djtasks.models.advancing import Step
from djtasks.models.fields import UTCDateTimeField, aware, utc_now
from djtasks.models.managers import AppManager
from djtasks.schedules import Series, as_schedule, from_text, to_text, zone_named

# What decides when the next tick is, and what else belongs to the definition: an edit of it is a new beginning
# for a row that was broken. The rest is beat's, and an edit in the admin leaves it alone.
TIMING: Final = frozenset(
    {"schedule", "timezone", "enabled", "start_at", "end_at", "one_off", "max_runs", "gone", "total_run_count"}
)
CONTENT: Final = frozenset(
    {
        "name", "task", "args", "kwargs", "headers", "options", "queue", "priority", "expires", "jitter", "overlap",
        "catch_up", "misfire_grace", "source",
    }
)  # fmt: skip
DEFINITION: Final = TIMING | CONTENT


class PeriodicTaskQuerySet(models.QuerySet["PeriodicTask"]):
    """Schedules by what beat makes of them."""

    def live(self) -> Self:
        """Have a next run: enabled, not ended, not broken, still in the code."""
        return self.filter(enabled=True, next_run_at__isnull=False)

    def due(self, now: datetime) -> Self:
        """Their next run has come by `now`, the oldest first."""
        return self.filter(enabled=True, next_run_at__lte=now).order_by("next_run_at", "pk")

    def broken(self) -> Self:
        """Cannot run until somebody edits them; `problem` says why."""
        return self.filter(problem__isnull=False)

    def from_code(self) -> Self:
        """Written by settings or beside tasks, not in the admin."""
        return self.exclude(source=PeriodicTask.Source.ADMIN)

    def unreckoned(self) -> Self:
        """Enabled, and yet without a next run: ended, or written past the model, as a fixture is."""
        return self.filter(enabled=True, gone=False, next_run_at=None, problem=None)

    def ahead_of(self, moment: datetime) -> Self:
        """Live ones that ran or were changed later than `moment`: the clock has been set back since."""
        recent = models.Q(last_run_at__gt=moment) | models.Q(changed_at__gt=moment)
        return self.live().filter(recent)

    def advance(self, steps: Sequence[Step]) -> set[int]:
        """Take those steps whose rows stand where they start. Returns the keys of the rows."""
        return advancing.advance(self, steps) if steps else set()

    def break_down(self, step: Step, problem: str) -> bool:
        """Note why a row cannot run, if it stands where `step` starts: nothing more comes of it until it is edited."""
        row = self.filter(pk=step.pk, next_run_at=step.due, changed_at=step.changed_at)
        return row.update(next_run_at=None, problem=problem) == 1

    def reckon(self, now: datetime) -> int:
        """Set the next run of all of these anew, strictly later than `now`. Returns of how many it is another."""
        ids = list(self.values_list("pk", flat=True))  # first: MySQL locks each row that it looks at
        if not ids:
            return 0
        count = 0
        with transaction.atomic(using=self.db):
            for row in self.filter(pk__in=ids).select_for_update().order_by("pk"):
                before = row.next_run_at, row.problem
                row.reckon(now)
                if (row.next_run_at, row.problem) != before:
                    self._write(row.pk, next_run_at=row.next_run_at, problem=row.problem, changed_at=now)
                    count += 1
        return count

    def update(self, **values: Any) -> int:
        """Django's; a change of the definition takes effect as with `save()`, so it costs a statement a row then."""
        if not values.keys() & DEFINITION or "next_run_at" in values:
            return super().update(**values)
        if "schedule" in values and not hasattr(values["schedule"], "resolve_expression"):
            values["schedule"] = _normal(values["schedule"])
        with transaction.atomic(using=self.db):
            ids = list(self.order_by("pk").values_list("pk", flat=True))
            rows = self.model._default_manager.using(self.db).filter(pk__in=ids)
            list(rows.select_for_update().order_by("pk").values_list("pk"))  # before we ask what time it is
            now = statements.now(connections[self.db])
            count = super(PeriodicTaskQuerySet, rows).update(**values, changed_at=now)
            anew = rows if values.keys() & TIMING else rows.filter(problem__isnull=False)
            anew.reckon(now)
        return count

    def bulk_create(self, objs: Iterable[PeriodicTask], *args: Any, **options: Any) -> list[PeriodicTask]:
        """Django's; each gets its next run."""
        rows = list(objs)
        now = statements.now(connections[self.db])
        for row in rows:
            row.normalise()
            row.reckon(now)
            row.changed_at = now
        return super().bulk_create(rows, *args, **options)

    def _write(self, pk: int, **values: Any) -> None:
        super(PeriodicTaskQuerySet, self.model._default_manager.using(self.db).filter(pk=pk)).update(**values)


class PeriodicTask(models.Model):
    """When a task is to be enqueued, and with what.

    `schedule` takes what `as_schedule` does and is stored as text. `args`, `kwargs` and `headers` are JSON. A row is
    live while `next_run_at` is set: `save()` sets it when the definition changes, strictly later than now, so that
    nothing fires for the time in which a row was disabled; beat moves it on from tick to tick.
    """

    class CatchUp(models.TextChoices):
        SKIP = "skip", _("skip what was missed")
        ONCE = "once", _("run once for all that was missed")
        ALL = "all", _("run each that was missed")

    class Source(models.TextChoices):
        ADMIN = "admin", _("database")
        SETTINGS = "settings", _("settings")
        TASK = "task", _("beside the task")

    name = models.CharField(_("name"), max_length=200, unique=True)
    task = models.CharField(_("task"), max_length=255)
    schedule = models.CharField(_("schedule"), max_length=255)
    timezone = models.CharField(_("time zone"), max_length=64, default="", db_default="", blank=True)
    args = models.TextField(_("arguments"), default="[]")
    kwargs = models.TextField(_("keyword arguments"), default="{}")
    headers = models.TextField(_("headers"), default="{}")
    options = models.TextField(null=True, editable=False)  # noqa: DJ001 - JSON: options of apply_async without a column
    queue = models.CharField(_("queue"), max_length=128, default="", db_default="", blank=True)
    priority = models.SmallIntegerField(_("priority"), null=True, blank=True)
    enabled = models.BooleanField(_("enabled"), default=True, db_default=True)
    start_at = UTCDateTimeField(_("not before"), null=True, blank=True)
    end_at = UTCDateTimeField(_("not after"), null=True, blank=True)
    one_off = models.BooleanField(_("only once"), default=False, db_default=False)
    max_runs = models.IntegerField(_("runs at most"), null=True, blank=True)
    expires = models.FloatField(_("a tick expires after (seconds)"), null=True, blank=True)
    jitter = models.FloatField(_("jitter (seconds)"), default=0, db_default=0.0)
    overlap = models.BooleanField(_("may overlap"), default=True, db_default=True)
    catch_up = models.CharField(_("missed ticks"), max_length=8, choices=CatchUp, default=CatchUp.ONCE)
    misfire_grace = models.FloatField(_("grace for missed ticks (seconds)"), null=True, blank=True)
    source = models.CharField(_("source"), max_length=16, default="admin", db_default="admin")
    gone = models.BooleanField(_("gone from the code"), default=False, db_default=False, editable=False)
    problem = models.TextField(_("problem"), null=True, editable=False)  # noqa: DJ001 - no default for TEXT on MySQL
    last_run_at = UTCDateTimeField(_("last run"), null=True, blank=True)
    last_job = models.CharField(_("last job"), max_length=64, null=True, editable=False)  # noqa: DJ001
    next_run_at = UTCDateTimeField(_("next run"), null=True, blank=True, db_index=True)
    total_run_count = models.IntegerField(_("runs"), default=0, db_default=0)
    changed_at = UTCDateTimeField(_("changed at"), default=utc_now)

    objects = AppManager.from_queryset(PeriodicTaskQuerySet)()

    class Meta:
        verbose_name = _("schedule")
        verbose_name_plural = _("schedules")
        permissions = (("run_periodictask", _("Can run schedules now")),)

    def __str__(self) -> str:
        return self.name

    def save(self, **options: Any) -> None:
        """Django's; sets the next run if the definition has changed, and writes only what has: beat writes here too.

        Raises TypeError for a schedule that is none. A text that cannot be read is stored, and `problem` says so.
        """
        options["using"] = alias = options.get("using") or self._state.db or settings.DATABASE
        self.normalise()
        with transaction.atomic(using=alias):
            if self._state.adding or not self._save_changes(alias, **options):
                self.changed_at = statements.now(connections[alias])
                self.reckon(self.changed_at)
                super().save(**options)
                self._remember()

    # When

    @property
    def zone(self) -> ZoneInfo:
        """The zone in which the schedule is matched; TIMEZONE, or Django's, if it names none. Raises ValueError."""
        return zone_named(self.timezone or settings.TIMEZONE or django_settings.TIME_ZONE)

    @property
    def series(self) -> Series:
        """Its ticks. Raises ValueError if the schedule or the zone cannot be read."""
        zone = self.timezone or settings.TIMEZONE or django_settings.TIME_ZONE
        return _series(self.schedule, zone, self.start_at, self.end_at)

    @property
    def status(self) -> str:
        """A word for people and programs: "broken", "gone", "disabled", "live", "ended"."""
        if self.problem is not None:
            return "broken"
        if self.gone:
            return "gone"
        if not self.enabled:
            return "disabled"
        return "live" if self.next_run_at is not None else "ended"

    def upcoming(self, count: int = 5) -> list[datetime]:
        """The next `count` runs of a live row, in its zone; fewer if it ends. Raises ValueError as `series` does."""
        if self.status != "live" or self.next_run_at is None:
            return []
        series = self.series
        most = 1 if self.one_off else count
        if self.max_runs is not None:
            most = min(most, self.max_runs - self.total_run_count)
        return [
            each.astimezone(series.zone) for each in islice(series.since(self.next_run_at), max(0, min(count, most)))
        ]

    @property
    def is_used_up(self) -> bool:
        """Whether it has run as often as `max_runs` allows."""
        return self.max_runs is not None and self.total_run_count >= self.max_runs

    def reckon(self, now: datetime) -> None:
        """Set `next_run_at` to the first tick later than `now`, or None; and `problem`, if it cannot be read."""
        problems = self.problems()
        self.problem = "\n".join(f"{field}: {text}" for field, text in problems.items()) or None
        wanted = self.problem is None and self.enabled and not self.gone and not self.is_used_up
        self.next_run_at = self.series.first(now) if wanted else None

    # What

    def arguments(self) -> tuple[list[Any], dict[str, Any]]:
        """args and kwargs as values; model instances stand as references. Raises MalformedMessage."""
        return encoding.decode_arguments(self.args, self.kwargs, fetch=False)

    def further_options(self) -> dict[str, Any]:
        """Options of `apply_async` that have no column of their own."""
        return dict(json.loads(self.options)) if self.options else {}

    # Checking

    def clean_fields(self, exclude: Collection[str] | None = None) -> None:
        """Django's, and what is wrong with the definition, by field. Raises ValidationError."""
        excluded = exclude or ()
        errors: dict[str, Any] = {}
        if "schedule" not in excluded:
            try:
                self.schedule = _normal(self.schedule)
            except (TypeError, ValueError) as error:
                errors["schedule"] = [str(error)]
        try:
            super().clean_fields({*excluded, *errors})
        except ValidationError as error:
            errors = error.update_error_dict(errors)
        found = {} if "schedule" in errors else self.problems()
        errors |= {field: [text] for field, text in found.items() if field not in errors and field not in excluded}
        if errors:
            raise ValidationError(errors)

    def normalise(self) -> None:
        """Bring the schedule and times into the form in which they are stored.

        Raises TypeError for a schedule that is none, ValueError for a naive time under USE_TZ.
        """
        self.schedule = _normal(self.schedule)
        self.start_at, self.end_at = (each and aware(each) for each in (self.start_at, self.end_at))

    def problems(self) -> dict[str, str]:
        """What is wrong with the definition, a sentence a field."""
        return definition.problems(self)

    # Storing

    @classmethod
    def from_db(cls, *args: Any, **options: Any) -> Self:
        row = super().from_db(*args, **options)
        row._remember()
        return row

    def refresh_from_db(
        self, using: str | None = None, fields: Iterable[str] | None = None, from_queryset: Any = None
    ) -> None:
        super().refresh_from_db(using=using, fields=fields, from_queryset=from_queryset)
        self._remember(fields)

    def _save_changes(self, alias: str, **options: Any) -> bool:
        """Write what has changed. Returns whether there was a row."""
        standing = PeriodicTask.objects.using(alias).filter(pk=self.pk).select_for_update()
        beats = standing.values("total_run_count", "problem").first()  # no tick is sent while we look
        if beats is None:
            return False
        changed = self._changed(options.get("update_fields"))
        if changed & DEFINITION:
            now = statements.now(connections[alias])
            if changed & TIMING or beats["problem"] is not None:
                if "total_run_count" not in changed:
                    self.total_run_count = beats["total_run_count"]
                self.reckon(now)
                changed |= {"next_run_at", "problem"}
            self.changed_at = now
            changed |= {"changed_at"}
        options["update_fields"] = changed
        super().save(**options)
        self._remember(changed)
        return True

    def _changed(self, among: Iterable[str] | None) -> set[str]:
        """The fields whose values are not those that were read; of `among`, if that is given."""
        names = {field.attname for field in self._meta.concrete_fields} - self.get_deferred_fields() - {"id"}
        if among is not None:
            names &= set(among)
        return {name for name in names if name not in self._stored or self._stored[name] != getattr(self, name)}

    def _remember(self, fields: Iterable[str] | None = None) -> None:
        """Keep what the row holds now, to see later what has changed."""
        values = {name: value for name, value in self.__dict__.items() if name != "_stored"}
        if fields is None:
            self._stored = values
        else:
            self._stored |= {name: values[name] for name in fields if name in values}


@lru_cache(maxsize=4096)  # of thousands of rows, most have a schedule in common with others
def _series(text: str, zone: str, start: datetime | None, end: datetime | None) -> Series:
    return Series(from_text(text), zone_named(zone), start, end)


def _normal(given: object) -> str:
    """A schedule as text; a text that cannot be read as it is."""
    if not isinstance(given, str):
        return to_text(as_schedule(given))
    try:
        return to_text(from_text(given))
    except ValueError:
        return given
