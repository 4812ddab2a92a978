"""`manage.py djtasks`: what an operator asks, a subcommand for each question.

A further subcommand is a method `_add_<name>`, which describes it and names the method that answers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, DjangoHelpFormatter
from django.db import DatabaseError

from djtasks import encoding, registry
from djtasks.brokers import get_broker
from djtasks.brokers.base import QueueSize
from djtasks.exceptions import BrokerUnavailable, ImproperlyConfigured, MalformedMessage
from djtasks.management import queues, schedules
from djtasks.management.tables import printable, table, time_and_age
from djtasks.masking import MASK, masked_call, masked_text
from djtasks.message import Delivery, Message
from djtasks.worker import health

EXAMPLES: Final = """
examples:
  manage.py djtasks queues                      how much stands in each queue
  manage.py djtasks queues --json               the same, for programs
  manage.py djtasks inspect waiting mail        what is ready in the queue 'mail', in the order in which it will run
  manage.py djtasks inspect scheduled mail      what waits there for its time, the next first
  manage.py djtasks health                      whether the workers of this machine are well, by the exit code
  manage.py djtasks inspect waiting mail --offset 100 --limit 20 --args
  manage.py djtasks schedule list               the schedules, the next to run first
  manage.py djtasks schedule run nightly        one job of the schedule 'nightly', now
  manage.py djtasks schedule disable nightly    until: schedule enable nightly
  manage.py djtasks pause mail                  until: resume mail
  manage.py djtasks move mail slow --task shop.tasks.report --limit 100
  manage.py djtasks set slow --default-priority -10 --aging 60
  manage.py djtasks purge mail --no-input       remove what waits there
"""
MOST_AT_ONCE: Final = 10_000  # jobs
FARTHEST: Final = 10**9  # jobs that may be skipped
LONGEST_ARGUMENTS: Final = 200  # characters of a line
EMPTY: Final = QueueSize(ready=0, scheduled=0, running=0)

Subcommands = Any  # what add_subparsers returns; argparse gives it no public name


class HelpFormatter(DjangoHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Django's, that leaves the examples in their lines."""


class Command(BaseCommand):
    help = "Look at the queues, the schedules and the workers of djtasks, and hold them."
    requires_system_checks: list[str] = []  # to look is safe, whatever is wrong elsewhere

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.formatter_class = HelpFormatter
        parser.epilog = EXAMPLES
        subcommands = self._with_subcommands(parser)
        self._add_queues(subcommands)
        self._add_inspect(subcommands)
        self._add_schedule(subcommands)
        self._add_health(subcommands)
        self._add_held(subcommands)

    def _with_subcommands(self, parser: argparse.ArgumentParser) -> Subcommands:
        """Let `parser` have subcommands; without one it prints its help."""
        parser.set_defaults(answer=lambda given: self.stdout.write(parser.format_help()))
        return parser.add_subparsers(title="subcommands")

    def handle(self, *args: Any, **given: Any) -> None:
        try:
            given["answer"](given)
        except (BrokerUnavailable, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from error
        except DatabaseError as error:
            raise CommandError(
                f"The database does not do what is asked (manage.py migrate djtasks?): {error}"
            ) from error

    def _add_queues(self, subcommands: Subcommands) -> None:
        parser = subcommands.add_parser("queues", help="How much stands in each queue.")
        parser.add_argument("--json", action="store_true", help="Print a JSON list instead of a table.")
        parser.set_defaults(answer=self._queues)

    def _queues(self, given: Mapping[str, Any]) -> None:
        if given["json"]:
            self._print_json(queues.as_json())
            return
        head, rows = queues.table()
        if rows:
            self._print_table(head, rows)
        else:
            self.stdout.write("No queue holds a job, and none is paused.")

    def _add_held(self, subcommands: Subcommands) -> None:
        """What is done to a queue."""
        for name, (add, act, text) in queues.ACTIONS.items():
            parser = subcommands.add_parser(name, help=text)
            add(parser)
            parser.add_argument("--json", action="store_true", help="Print a JSON object instead of a sentence.")
            parser.set_defaults(answer=partial(self._hold, act))

    def _hold(self, act: queues.Action, given: Mapping[str, Any]) -> None:
        try:
            sentence, values = act(given)
        except ValueError as error:
            raise CommandError(str(error)) from error
        if given["json"]:
            self._print_json(values)
        else:
            self.stdout.write(printable(sentence))

    def _add_inspect(self, subcommands: Subcommands) -> None:
        parser = subcommands.add_parser("inspect", help="What waits in a queue.")
        questions = self._with_subcommands(parser)
        waiting = questions.add_parser("waiting", help="What is ready, in the order in which it will run.")
        waiting.set_defaults(answer=partial(self._inspect, scheduled=False))
        scheduled = questions.add_parser("scheduled", help="What waits for its time, the next first.")
        scheduled.set_defaults(answer=partial(self._inspect, scheduled=True))
        for question in (waiting, scheduled):
            _add_part(question)

    def _inspect(self, given: Mapping[str, Any], *, scheduled: bool) -> None:
        broker = get_broker()
        offset = given["offset"]
        deliveries = broker.peek(given["queue"], scheduled=scheduled, offset=offset, limit=given["limit"])
        if given["json"]:
            self._print_json([_as_json(each, with_arguments=given["with_arguments"]) for each in deliveries])
            return
        size = broker.sizes().get(given["queue"], EMPTY)
        total = size.scheduled if scheduled else size.ready
        where = f"{'scheduled' if scheduled else 'ready'} in '{printable(given['queue'])}'"
        paused = ", which is paused" if size.paused else ""
        if deliveries:
            last = offset + len(deliveries)
            self.stdout.write(f"{offset + 1}-{last} of {max(total, last)} {where}{paused}")
            self._print_jobs(deliveries, first=offset + 1, scheduled=scheduled, with_arguments=given["with_arguments"])
        else:
            after = f" after the first {offset}; there are {total} in all" if offset else ""
            self.stdout.write(f"Nothing is {where}{paused}{after}.")

    def _add_schedule(self, subcommands: Subcommands) -> None:
        parser = subcommands.add_parser(
            "schedule", help="The schedules: when they run, and to run, pause or resume one."
        )
        questions = self._with_subcommands(parser)
        listing = questions.add_parser("list", help="All schedules, the next to run first.")
        listing.add_argument("--json", action="store_true", help="Print a JSON list instead of a table.")
        listing.set_defaults(answer=self._list_schedules)
        for name, (act, text) in schedules.ACTIONS.items():
            action = questions.add_parser(name, help=text)
            action.add_argument("name", metavar="NAME")
            action.set_defaults(answer=partial(self._act_on_schedule, act))

    def _list_schedules(self, given: Mapping[str, Any]) -> None:
        rows = schedules.in_order()
        if given["json"]:
            self._print_json([schedules.as_json(row) for row in rows])
            return
        if rows:
            self._print_table(schedules.HEAD, [schedules.as_cells(row) for row in rows])
        for text in schedules.remarks(rows):
            self.stdout.write(text)

    def _act_on_schedule(self, act: Callable[[str], str], given: Mapping[str, Any]) -> None:
        self.stdout.write(act(given["name"]))

    def _add_health(self, subcommands: Subcommands) -> None:
        parser = subcommands.add_parser(
            "health", help="Whether the workers of this machine are well: exit code 0, or 1 and what is wrong."
        )
        parser.add_argument("--worker", help="Only the worker of this name, as given to runworker -n. Default: all.")
        parser.add_argument("--json", action="store_true", help="Print a JSON object.")
        parser.set_defaults(answer=self._health)

    def _health(self, given: Mapping[str, Any]) -> None:
        found = health.living(given["worker"])
        problem = health.verdict(given["worker"], found)
        if given["json"]:
            workers = [asdict(each) for each in found]
            self._print_json({"healthy": not problem, "problem": problem, "workers": workers})
            if problem:
                raise SystemExit(1)
        elif problem:
            raise CommandError(problem)
        else:
            self.stdout.write("\n".join(map(health.describe, found)))

    def _print_jobs(self, deliveries: Sequence[Delivery], *, first: int, scheduled: bool, with_arguments: bool) -> None:
        columns = [
            *COLUMNS,
            *([DUE] if scheduled else []),
            *([SO_FAR] if any(map(_so_far, deliveries)) else []),
            *([ARGUMENTS] if with_arguments else []),
        ]
        rows = [[position, *(read(each) for _, read in columns)] for position, each in enumerate(deliveries, first)]
        self._print_table(["#", *(name for name, _ in columns)], rows)

    def _print_table(self, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        self.stdout.write("\n".join(table(head, rows)))

    def _print_json(self, value: object) -> None:
        self.stdout.write(json.dumps(value, indent=2))


def _add_part(parser: argparse.ArgumentParser) -> None:
    """What is asked about the jobs of a queue."""
    parser.add_argument("queue", metavar="QUEUE")
    parser.add_argument(
        "--limit", type=partial(_number, least=1, most=MOST_AT_ONCE), default=100, help="So many at most. Default: 100."
    )
    parser.add_argument(
        "--offset", type=partial(_number, least=0, most=FARTHEST), default=0, help="Leave out so many first ones."
    )
    parser.add_argument(
        "--args",
        dest="with_arguments",
        action="store_true",
        help="Arguments too; those with a sensitive name are masked.",
    )
    parser.add_argument("--json", action="store_true", help="Print a JSON list instead of a table.")


def _number(text: str, *, least: int, most: int) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:100]!r} is no whole number.") from None
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"{number} is not between {least} and {most}.")
    return number


def _as_json(delivery: Delivery, *, with_arguments: bool) -> dict[str, Any]:
    message = delivery.message
    values = {
        "id": message.id,
        "task": message.task,
        "queue": message.queue,
        "priority": message.priority,
        "enqueued_at": _iso(delivery.created_at),
        "eta": _iso(message.eta),
        "expires_at": _iso(message.expires_at),
        "claims": delivery.token,
        "losses": delivery.losses,
        "revoked": delivery.revoked,
    }
    if with_arguments:
        values["args"], values["kwargs"] = _plain(_arguments(message))
    return values


def _arguments(message: Message) -> tuple[Any, Any]:
    """args and kwargs, masked; as text where they cannot be read."""
    try:
        args, kwargs = encoding.decode_arguments(message.args, message.kwargs, fetch=False)
    except MalformedMessage:
        return masked_text(message.args), masked_text(message.kwargs)
    return masked_call(registry.find(message.task), args, kwargs)


def _plain(value: Any) -> Any:
    """What JSON has no word for, as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def _arguments_as_text(message: Message) -> str:
    args, kwargs = _arguments(message)
    if isinstance(args, str):
        text = f"{args} {kwargs}"
    else:
        text = ", ".join([*map(_shown, args), *(f"{name}={_shown(value)}" for name, value in kwargs.items())])
    return text if len(text) <= LONGEST_ARGUMENTS else f"{text[:LONGEST_ARGUMENTS]}..."


def _shown(value: object) -> str:
    return MASK if value == MASK else repr(value)


def _so_far(delivery: Delivery) -> str:
    words = (("unreadable", bool(delivery.malformed)), ("revoked", delivery.revoked))
    counts = (("claims", delivery.token), ("losses", delivery.losses))
    return ", ".join(
        [*(word for word, holds in words if holds), *(f"{word} {count}" for word, count in counts if count)]
    )


def _iso(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat() if moment else None


Column = tuple[str, Callable[[Delivery], object]]
COLUMNS: Final[Sequence[Column]] = (
    ("id", lambda delivery: delivery.id),
    ("task", lambda delivery: delivery.message.task),
    ("priority", lambda delivery: delivery.message.priority),
    ("enqueued", lambda delivery: time_and_age(delivery.created_at)),
)
DUE: Final[Column] = ("due", lambda delivery: time_and_age(delivery.message.eta))
SO_FAR: Final[Column] = ("so far", _so_far)
ARGUMENTS: Final[Column] = ("arguments", lambda delivery: _arguments_as_text(delivery.message))
