"""With which transaction a message goes: into it, with it, or at once (DESIGN: rule 7).

Where the queue is not the job table, a message of an open transaction is written into the outbox in
that transaction, sent after its commit, and deleted once it is sent. What a process leaves behind
that dies in between, the keepers send.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from typing import Any, Final
from weakref import WeakValueDictionary

from django.db import DatabaseError, Error, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from djtasks import states
from djtasks.brokers import Broker, get_broker
from djtasks.conf import settings
from djtasks.exceptions import BrokerUnavailable, MalformedMessage, MessageTooLarge
from djtasks.message import Delivery, Failure, Message, NewGroup, Outcome, new_id, portions
from djtasks.models import Job, JobGroup, Outbox

logger = logging.getLogger("djtasks.outbox")

LEFT_BEHIND: Final = 5.0  # seconds after which a message was not sent by who wrote it
BATCH: Final = 500  # messages a row, and a send
BATCH_SIZE: Final = 4 * 1024 * 1024  # bytes of messages a row
MOST_ROWS: Final = 16  # a statement
WATCHED: Final = 20_000  # rows of the outbox that a keeper keeps an eye on
BREATHER: Final = 1.0  # seconds for which nobody waits again for a broker that did not answer

Committed = Callable[[], bool]
handles: WeakValueDictionary[str, Any] = WeakValueDictionary()  # on unique jobs that are not sent yet, by id


class _Breather:
    """When this process has last waited for the broker in vain."""

    until = 0.0


def send(
    messages: Sequence[Message],
    groups: Sequence[NewGroup] = (),
    *,
    using: str | None = None,
    on_commit: str | bool | None = None,
    checked: bool = False,
    holders: dict[str, str] | None = None,
) -> Committed | None:
    """Hand messages to the broker with the transaction that is open, at once if none is.

    `groups` are stored in one transaction with the messages, so that all of these are sent or none is.

    `using` names the alias whose transaction they belong to; by default all that are open: they go when the
    last has committed, and never if one is rolled back. `on_commit` takes the place of ENQUEUE_ON_COMMIT.
    `checked` says that `check_sizes` has let them in before: what is accepted once goes on, whatever the limit is now.
    `holders` gets the ids of messages that were not taken, each with the id of the job that has its unique key; what
    turns out so after the commit is told to `handles`.
    Returns a function that tells whether that commit has come, None if there is none to wait for.
    Raises ValueError if several are open, none of them on DATABASE, and `using` does not choose;
    MessageTooLarge, BrokerUnavailable.
    """
    if not checked:
        check_sizes(messages)
        for group in groups:
            check_sizes(group.body)
    if not messages:
        return None
    dropped: dict[str, str] = {} if holders is None else holders
    return _send_groups(groups, messages, using) if groups else _send(messages, using, on_commit, dropped)


def _send(
    messages: Sequence[Message], using: str | None, on_commit: str | bool | None, holders: dict[str, str]
) -> Committed | None:
    broker = get_broker()
    mode = settings.ENQUEUE_ON_COMMIT if on_commit is None else on_commit
    aliases = _open_aliases(using)
    if mode is False:
        aliases = [alias for alias in aliases if broker.transactional and alias == settings.DATABASE]
    if not aliases:
        holders.update(_offer(messages, broker))
        return None
    if aliases != [settings.DATABASE]:
        return _when_all_have_committed(aliases, _After(_send_or_keep, messages))
    if broker.transactional:
        holders.update(broker.enqueue(messages))
        return _after_commit(None, [])
    if any(each.unique_key for each in messages):
        found = broker.holders(messages)
        holders.update(broker.holders(messages) if _freed(messages, found) else found)
        messages = [each for each in messages if each.id not in holders]
        if not messages:
            return _after_commit(None, [])
    if mode is True:
        return _after_commit(_send_or_keep, messages)
    return _after_commit(_send_written, _write(messages))


def _send_groups(groups: Sequence[NewGroup], messages: Sequence[Message], using: str | None) -> Committed | None:
    aliases = _open_aliases(using)
    if aliases and aliases != [settings.DATABASE]:
        return _when_all_have_committed(aliases, _After(partial(_store_and_send, groups), messages))
    return _store_and_send(groups, messages)


def _store_and_send(groups: Sequence[NewGroup], messages: Sequence[Message]) -> Committed | None:
    with transaction.atomic(using=settings.DATABASE):
        JobGroup.objects.all().begin(groups)
        return send(messages, using=settings.DATABASE, on_commit="outbox", checked=True)


def check_sizes(messages: Iterable[Message]) -> None:
    """Raise MessageTooLarge if one message exceeds `MAX_MESSAGE_BYTES`."""
    for message in messages:
        if message.size > settings.MAX_MESSAGE_BYTES:
            raise MessageTooLarge(
                f"The message of {message.task} has {message.size} bytes; MAX_MESSAGE_BYTES is "
                f"{settings.MAX_MESSAGE_BYTES}. Store the data and pass its key, or raise the setting."
            )


class _After:
    """What is to be done with messages, or with rows of the outbox, once a transaction has committed."""

    def __init__(self, act: Callable[[Sequence[Any]], object] | None, sent: Sequence[Any]) -> None:
        self.act = act
        self.sent = list(sent)
        self.has_committed = False

    def __call__(self) -> None:
        self.has_committed = True
        if self.act is not None:
            self.act(self.sent)

    def committed(self) -> bool:
        return self.has_committed


def unsent() -> list[str]:
    """The ids of the rows that were written and not sent yet, the oldest `WATCHED` of them."""
    return list(Outbox.objects.order_by("created_at").values_list("pk", flat=True)[:WATCHED])


def resend(ids: Sequence[str]) -> int:
    """Send what stands in rows of the outbox, as messages that may have been sent. Returns how many messages.

    For those only that have been seen to stand there for `LEFT_BEHIND` seconds: when they were written says
    nothing of when their transaction has committed. Raises BrokerUnavailable.
    """
    rows = list(Outbox.objects.filter(pk__in=ids).order_by("created_at"))
    messages = [replace(each, check=True) for row in rows for each in _read(row)]
    if messages:
        _enqueue(messages)
        logger.info("%d message(s) of the outbox were sent", len(messages))
    _delete([row.pk for row in rows])
    return len(messages)


def _read(row: Outbox) -> list[Message]:
    try:
        return Message.several_from_json(row.message)
    except MalformedMessage as error:
        _bury(Message(id=row.pk, task=""), error)
        return []


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the outbox, as it was written."""

    id: str
    messages: Sequence[Message]
    written: float = field(default_factory=time.monotonic)


def _write(messages: Sequence[Message]) -> list[_Row]:
    """Write messages into the outbox, many a row: a group of thousands costs no more than a few."""
    if len(messages) == 1:
        rows = [_Row(messages[0].id, messages)]
    else:
        rows = [_Row(new_id(), portion) for portion in portions(messages, attrgetter("size"), BATCH, BATCH_SIZE)]
    written = [Outbox(id=each.id, message=_text_of(each.messages)) for each in rows]
    # An id that is there already is the same message, sent once more.
    Outbox.objects.bulk_create(written, batch_size=MOST_ROWS, ignore_conflicts=True)
    return rows


def _text_of(messages: Sequence[Message]) -> str:
    if len(messages) == 1:
        return messages[0].to_json()
    return f"[{','.join(each.to_json() for each in messages)}]"


def _send_written(rows: Sequence[_Row]) -> None:
    """Send what stands in the outbox; if that fails, it stays there for the keepers."""
    try:
        if time.monotonic() < _Breather.until:
            return
        here = rows
        if time.monotonic() - rows[0].written > LEFT_BEHIND / 2:
            # The transaction, or other hooks of its commit, took so long that a keeper may have sent them.
            left = set(Outbox.objects.filter(pk__in=[each.id for each in rows]).values_list("pk", flat=True))
            here = [each for each in rows if each.id in left]
        for portion in portions(here, lambda row: len(row.messages), BATCH, BATCH):
            with get_broker().patience(0.0):  # it is safe already: nobody need wait for a server that is away
                _enqueue([message for row in portion for message in row.messages])
            _delete([each.id for each in portion])
    except BrokerUnavailable as error:
        _Breather.until = time.monotonic() + BREATHER
        logger.warning("%d row(s) of messages stay in the outbox for now: %s", len(rows), error)
    except DatabaseError as error:
        logger.warning("What was sent could not be deleted from the outbox and will be sent again: %s", error)


def _send_or_keep(messages: Sequence[Message]) -> None:
    """Send; if that fails, write it into the outbox after all."""
    broker = get_broker()
    try:
        if not broker.transactional and time.monotonic() < _Breather.until:
            raise BrokerUnavailable("The broker did not answer a moment ago.")
        with broker.patience(0.0):
            _enqueue(messages)
    except BrokerUnavailable as error:
        if broker.transactional:
            raise
        _Breather.until = time.monotonic() + BREATHER
        _write(messages)
        logger.warning("%d message(s) go by the outbox: %s", len(messages), error)


def _enqueue(messages: Sequence[Message]) -> None:
    """Send after a commit. Who holds a handle on a job that another one stands for learns of it."""
    holders = _offer(messages, get_broker())
    for message in messages if holders else ():
        if message.id in holders:
            _tell(message, holders[message.id])


def _offer(messages: Sequence[Message], broker: Broker) -> Mapping[str, str]:
    """Enqueue, and once more what stands back for a job whose end is recorded: see `Broker.enqueue`."""
    holders = broker.enqueue(messages)
    if not holders:
        return holders
    freed = _freed(messages, holders)
    if not freed:
        return holders
    again = {each.id for each in freed}
    return {id: holder for id, holder in holders.items() if id not in again} | dict(broker.enqueue(freed))


def _freed(messages: Sequence[Message], holders: Mapping[str, str]) -> list[Message]:
    """What may have its key now, as the row of its holder says that this has ended.

    A worker records the end before it tells the broker; who has seen the result must not get that job once more.
    """
    if not holders or (broker := get_broker()).transactional:
        return []
    try:
        ended = set(Job.objects.finished().filter(pk__in=set(holders.values())).values_list("pk", flat=True))
    except Error:  # the broker has answered, so nothing is to fail here: who has the key keeps it
        return []
    freed = [each for each in messages if holders.get(each.id) in ended]
    broker.unlock([replace(each, id=holders[each.id]) for each in freed], have_ended=True)
    return freed


def _tell(message: Message, holder: str) -> None:
    """The job was not sent: handles name the one that has its key; elsewhere its id has a row that says so."""
    handle = handles.get(message.id)
    if handle is not None:
        handle.id = holder
    why = f"Not sent: the job {holder} has the same unique key."
    failure = Failure("djtasks.exceptions.Ignore", why)
    Job.objects.all().store([Outcome(delivery=Delivery(message, "", 0), state=states.IGNORED, failure=failure)])


def _delete(ids: Sequence[str]) -> None:
    Outbox.objects.filter(pk__in=ids).delete()


def _bury(message: Message, error: Exception) -> None:
    """A message that cannot be sent becomes a job that has failed, so that somebody sees it."""
    logger.error("The message %s in the outbox cannot be sent: %s", message.id, error)
    failure = Failure(f"{type(error).__module__}.{type(error).__qualname__}", str(error))
    delivery = Delivery(message, "", 0)
    Job.objects.all().store([Outcome(delivery=delivery, state=states.FAILURE, failure=failure)])


def _open_aliases(using: str | None) -> list[str]:
    """The aliases whose transactions a message waits for; that of DATABASE, if any, is the first."""
    if using is not None:
        if using not in connections.settings:
            raise ValueError(f"using={using!r} names no database; there are {', '.join(connections.settings)}.")
        return [using] if connections[using].in_atomic_block else []
    own = settings.DATABASE
    found = [each.alias for each in connections.all(initialized_only=True) if _is_open(each, each.alias == own)]
    if not found:
        return []
    if len(found) > 1 and own not in found:
        raise ValueError(
            f"Transactions are open on {' and '.join(found)}: say by using=… with which of them the job is to go."
        )
    return sorted(found, key=lambda alias: alias != own)


def _is_open(connection: BaseDatabaseWrapper, is_own: bool) -> bool:
    """Whether a transaction is open; on other aliases than DATABASE, one that a TestCase holds open does not count."""
    if not connection.in_atomic_block or is_own:
        return connection.in_atomic_block
    return not all(_of_testcases(connection))


def _of_testcases(connection: BaseDatabaseWrapper) -> list[bool]:
    """Of each open block, whether it is a TestCase's own."""
    blocks: list[Any] = connection.atomic_blocks
    return [block._from_testcase for block in blocks]


def _when_all_have_committed(aliases: Sequence[str], after: _After) -> Committed:
    waiting = set(aliases)

    def committed(alias: str) -> None:
        waiting.discard(alias)
        if not waiting:
            after()

    for alias in aliases:
        transaction.on_commit(partial(committed, alias), using=alias)
    return after.committed


def _after_commit(act: Callable[[Sequence[Any]], object] | None, sent: Sequence[Any]) -> Committed:
    """After the commit on DATABASE, with what was sent just before in the same savepoint: many sends are one then."""
    connection = connections[settings.DATABASE]
    hooks = connection.run_on_commit
    # In a TestCase each counts for itself: captureOnCommitCallbacks looks at those that were added meanwhile.
    last = hooks[-1] if hooks and not any(_of_testcases(connection)) else None
    if (
        last is not None
        and isinstance(last[1], _After)
        and last[1].act is act
        and last[0] == set(connection.savepoint_ids)
    ):
        last[1].sent += sent
        return last[1].committed
    after = _After(act, sent)
    transaction.on_commit(after, using=connection.alias)
    return after.committed
