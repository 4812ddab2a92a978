"""How values, times and states look to people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

from django.utils.formats import number_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from djtasks import states
from djtasks.masking import MASK
from djtasks.message import Wait
from djtasks.models import Job, Worker
from djtasks.moments import MINUTE, distance, exactly
from djtasks.restraint import name_of

NOTHING: Final = "–"
LOOKS: Final[Mapping[str, str]] = {
    states.PENDING: "waiting",
    states.SCHEDULED: "scheduled",
    states.RETRY: "retry",
    states.RECEIVED: "running",
    states.STARTED: "running",
    states.SUCCESS: "success",
    states.FAILURE: "failure",
    states.REVOKED: "cancelled",
    states.IGNORED: "ignored",
    states.REPLACED: "replaced",
}
WIDTH: Final = 88  # characters of a line
LONGEST_STRING: Final = 20_000  # characters
MOST_ITEMS: Final = 2_000  # of all containers of one value together
DEEPEST: Final = 20  # levels


def breakable(name: str) -> SafeString:
    """A dotted name that a narrow column breaks behind its dots."""
    return format_html_join(SafeString(".<wbr>"), "{}", ((piece,) for piece in name.split(".")))


def pill(word: str, look: str) -> SafeString:
    """A word on a coloured ground; `look` is one of those in admin.css."""
    return format_html('<span class="djtasks-pill djtasks-{}">{}</span>', look, word)


def state_pill(job: Job) -> SafeString:
    """Where the job stands."""
    return pill(job.shown_state, LOOKS.get(job.state, "waiting"))


def age(moment: datetime | None) -> SafeString | str:
    """How long ago a time was, or how soon it is; the exact time on hover."""
    if moment is None:
        return NOTHING
    return _time_element(moment, exactly(moment), distance(moment))


def exact_and_age(moment: datetime | None) -> SafeString | str:
    """The exact time, and how far it is from now."""
    if moment is None:
        return NOTHING
    return format_html(
        '{} <span class="djtasks-quiet">({})</span>', _time_element(moment, "", exactly(moment)), distance(moment)
    )


def _time_element(moment: datetime, title: str, text: str) -> SafeString:
    iso = moment.astimezone(UTC).isoformat()
    if not title:
        return format_html('<time datetime="{}">{}</time>', iso, text)
    return format_html('<time datetime="{}" title="{}" class="djtasks-age">{}</time>', iso, title, text)


def duration(seconds: float | None) -> str:
    """A run time, to three figures or so: '12 ms', '3.21 s', '4 min 5 s', '2 h 3 min'."""
    if seconds is None:
        return NOTHING
    if seconds < 1:
        return _("%(n)s ms") % {"n": number_format(seconds * 1000, 1 if seconds < 0.01 else 0)}
    if seconds < MINUTE:
        return _("%(n)s s") % {"n": number_format(seconds, 2)}
    minutes, rest = divmod(int(seconds), MINUTE)
    if minutes < MINUTE:
        return _("%(minutes)d min %(seconds)d s") % {"minutes": minutes, "seconds": rest}
    return _("%(hours)d h %(minutes)d min") % {"hours": minutes // 60, "minutes": minutes % 60}


def memory(kib: int | None) -> str:
    """So much memory: '512 KiB', '83 MiB', '1.5 GiB'."""
    if kib is None:
        return NOTHING
    for unit in ("KiB", "MiB"):
        if kib < 1000:
            return f"{number_format(kib, 0)} {unit}"
        kib /= 1024  # type: ignore[assignment]
    return f"{number_format(kib, 1)} GiB"


def run_time(job: Job) -> str:
    """How long the job ran, or has been running."""
    if job.seconds is None and job.state == states.STARTED and job.started_at:
        return duration(max(0.0, (datetime.now(UTC) - job.started_at).total_seconds())) + " …"
    return duration(job.seconds)


def served_queues(worker: Worker) -> str:
    """The queues whose jobs it takes, in words."""
    if worker.serves_none:
        return _("none")
    if named := worker.named_queues():
        return ", ".join(named)
    if excluded := worker.excluded_queues():
        return _("all but %(queues)s") % {"queues": ", ".join(excluded)}
    return _("all")


def pretty(value: Any) -> str:
    """A value as Python would write it, over as many lines as it takes; what is too much is cut, and says so."""
    return _Printer().write(value, 0)


class _Printer:
    def __init__(self) -> None:
        self.left = MOST_ITEMS

    def write(self, value: Any, depth: int) -> str:
        if isinstance(value, (dict, list, tuple, set, frozenset)) and value:
            return self.container(value, depth)
        return _scalar(value)

    def container(self, value: Any, depth: int) -> str:
        if depth >= DEEPEST:
            return "…"
        opening, closing = _BRACKETS[type(value)] if type(value) in _BRACKETS else (f"{type(value).__name__}({{", "})")
        parts = list(self.items(value, depth))
        comma = "," if isinstance(value, tuple) and len(parts) == 1 else ""
        flat = f"{opening}{', '.join(parts)}{comma}{closing}"
        if len(flat) + 4 * depth <= WIDTH and "\n" not in flat:
            return flat
        indent = "    " * (depth + 1)
        return "\n".join([opening, *(f"{indent}{part}," for part in parts), "    " * depth + closing])

    def items(self, value: Any, depth: int) -> Iterable[str]:
        entries = value.items() if isinstance(value, dict) else ((None, each) for each in value)
        for position, (key, each) in enumerate(entries):
            if self.left <= 0:
                yield _("… %(count)d more") % {"count": len(value) - position}
                return
            self.left -= 1
            text = self.write(each, depth + 1)
            yield f"{_scalar(key)}: {text}" if isinstance(value, dict) else text


_BRACKETS: Final[Mapping[type, tuple[str, str]]] = {
    dict: ("{", "}"),
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
}


def _scalar(value: Any) -> str:
    if value == MASK:
        return MASK
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return str(value)
    if isinstance(value, (str, bytes)) and len(value) > LONGEST_STRING:
        more = _("%(count)d more characters") % {"count": len(value) - LONGEST_STRING}
        return f"{value[:LONGEST_STRING]!r} … {more}"
    return repr(value)


def shortened(text: str) -> str:
    """Raw text, cut where it gets too long."""
    if len(text) <= LONGEST_STRING:
        return text
    more = _("%(count)d more characters") % {"count": len(text) - LONGEST_STRING}
    return f"{text[:LONGEST_STRING]} … {more}"


def wait_text(wait: Wait) -> SafeString | str:
    """For what a job waits that a limit holds back."""
    key = name_of(wait.limit.partition(":")[2])
    if wait.until is None:
        return _("a place: of %(key)s as many run as may") % {"key": key}
    return format_html(_("its turn by the rate of {}: {}"), key, age(wait.until))
