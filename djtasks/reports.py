"""Mail to ERROR_EMAILS about jobs that have failed: of one kind a mail now and then, with how many there were.

Who records outcomes counts their kinds, after the commit; the mails are sent by a keeper, in a thread beside it, so
that a mail server that hangs holds up no job and no beat. Rows are the lock: a kind is mailed about by one worker.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from django.conf import settings as django_settings
from django.core import mail
from django.db import DatabaseError, connections

from djtasks import registry
from djtasks.conf import as_names, settings
from djtasks.exceptions import MalformedMessage
from djtasks.masking import MASK, call_as_text, hidden_texts, masked_text
from djtasks.message import Outcome
from djtasks.models import FailureKind, Job
from djtasks.models.failure_kind import Sighting
from djtasks.models.fields import utc_now
from djtasks.moments import exactly

logger = logging.getLogger("djtasks.reports")

EVERY: Final = 900.0  # seconds between two mails about one kind of failure
MOST: Final = 20  # mails, whatever their kinds, in
PERIOD: Final = 3600.0  # seconds
PATIENCE: Final = 1.0  # seconds that a worker's end waits for mails
AGAIN_AFTER: Final = 60.0  # seconds after which a mail that could not be sent is tried again
MOST_KINDS: Final = 20  # that are noted of one batch of outcomes
LONGEST: Final = 20_000  # characters of an error or a traceback in a mail
LONGEST_PLACE: Final = 255  # characters

_FRAME: Final = re.compile(r'^  File "(.*)", line (\d+), in (.*)$', re.MULTILINE)


def note(outcomes: Sequence[Outcome]) -> None:
    """Count recorded failures by their kinds. Raises nothing: to be told of them is not worth a job."""
    if not settings.ERROR_EMAILS:
        return
    try:
        _count(outcomes)
    except Exception:
        logger.warning("%d failures are missing in the mail to ERROR_EMAILS", len(outcomes), exc_info=True)


def _count(outcomes: Sequence[Outcome]) -> None:
    last: dict[str, Sighting] = {}
    counts: Counter[str] = Counter()
    for sighting in map(_sighting, outcomes):
        last[sighting.key] = sighting
        counts[sighting.key] += 1
    for key, count in counts.most_common(MOST_KINDS):
        FailureKind.objects.all().note(last[key], count)


def _sighting(outcome: Outcome) -> Sighting:
    failure = outcome.failure
    frames = _FRAME.findall(failure.traceback) if failure else []
    place = "{}:{} in {}".format(*frames[-1])[-LONGEST_PLACE:] if frames else ""
    message = outcome.delivery.message
    return Sighting(message.task, failure.kind if failure else "", place, message.id)


class Mailer:
    """Lets the mails be sent that are due, beside whoever calls `turn`."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def turn(self) -> None:
        """Begin to send, if something is due and nothing is being sent. Raises what the database does."""
        if not settings.ERROR_EMAILS or (self._thread is not None and self._thread.is_alive()):
            return
        if FailureKind.objects.all().untold(EVERY).exists():
            self._thread = threading.Thread(target=_send_and_close, name="djtasks-mail", daemon=True)
            self._thread.start()

    def finish(self) -> None:
        """The last turn, for which there is a moment."""
        self.turn()
        if self._thread is not None:
            self._thread.join(PATIENCE)


def send_due() -> int:
    """Send the mails that are due, and wait for the mail server as long as it takes. Returns how many."""
    sent = 0
    kinds, waiting = FailureKind.objects.all().take(EVERY, MOST, PERIOD)
    try:
        while kinds:
            _deliverer().send_messages([_message(kinds[0], waiting if len(kinds) == 1 else 0)])
            kinds.pop(0)
            sent += 1
    except Exception:  # whatever a mail backend raises
        logger.exception("A mail to ERROR_EMAILS about jobs that failed could not be sent; it is tried again")
        again_at = utc_now() - timedelta(seconds=EVERY - AGAIN_AFTER)
        FailureKind.objects.all().give_back(kinds, again_at)
    return sent


def _send_and_close() -> None:
    try:
        send_due()
    except DatabaseError:
        logger.exception("The mails to ERROR_EMAILS are not sent now, as the database does not answer")
    finally:
        connections.close_all()


def _message(kind: FailureKind, waiting: int) -> mail.EmailMessage:
    task, exception = (text or "?" for text in (kind.task, kind.exception.rpartition(".")[2]))
    failures = "1 failure" if kind.count == 1 else f"{kind.count} failures"
    subject = f"{django_settings.EMAIL_SUBJECT_PREFIX}{task}: {exception} ({failures})"
    return mail.EmailMessage(
        " ".join(subject.splitlines()),
        "\n".join([*_head(kind), *_example(kind.job_id), *_foot(kind, waiting)]),
        django_settings.SERVER_EMAIL,
        as_names(settings.ERROR_EMAILS),
    )


def _head(kind: FailureKind) -> list[str]:
    since = f"since the last mail about it ({exactly(kind.mailed_at)})" if kind.mailed_at else "for the first time"
    return [
        f"Task:      {kind.task or 'unknown: the message could not be read'}",
        f"Exception: {kind.exception}",
        f"Place:     {kind.place or 'outside of the code of the task'}",
        f"Failures:  {kind.count}, {since}; the last one {exactly(kind.last_at)}",
        f"Last job:  {kind.job_id}",
    ]


def _example(job_id: str) -> list[str]:
    """What the row of the last job tells, as long as it is there and has not been retried."""
    row = Job.objects.filter(pk=job_id).exclude(exception="").first()
    if row is None:
        return []
    task = registry.find(row.task)
    text = f"{row.exception}: {row.exception_message or ''}\n\n{row.traceback or ''}"
    try:
        args, kwargs = row.arguments()
    except MalformedMessage:
        shown, text = masked_text(f"{row.args} {row.kwargs}"), masked_text(text)
    else:
        shown = call_as_text(task, args, kwargs)
        for secret in hidden_texts(task, args, kwargs):
            text = text.replace(secret, MASK)
    return [f"Arguments: {shown}", "", text[:LONGEST]]


def _foot(kind: FailureKind, waiting: int) -> list[str]:
    lines = [
        "",
        f"There is one mail about this kind of failure in {EVERY / 60:.0f} minutes at most, with their number.",
        f"Once the cause is gone: manage.py djtasks retry --task {kind.task} --exception {kind.exception}",
    ]
    if waiting:
        lines.append(f"{MOST} mails were sent within the hour; failures of other kinds are told of later.")
    return lines


def _deliverer() -> Any:
    """The site's mail backend; if that makes jobs of mails, what delivers them: it may be jobs that do not work."""
    has_mailers = bool(getattr(django_settings, "MAILERS", None))  # from Django 6.1 on
    backend = mail.mailers["default"] if has_mailers else mail.get_connection()
    return backend.deliverer() if hasattr(backend, "deliverer") else backend
