"""`manage.py djtasks`: what an operator asks, a subcommand for each question.

A further subcommand is a method `_add_<name>`, which describes it and names the method that answers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, DjangoHelpFormatter
from django.db import DatabaseError

from djtasks import states, upkeep
from djtasks.brokers import get_broker
from djtasks.brokers.base import QueueSize
from djtasks.conf import settings
from djtasks.exceptions import BrokerUnavailable, ImproperlyConfigured
from djtasks.management import (
    calls,
    destroy,
    drain,
    from_celery,
    jobs,
    preflight,
    queues,
    rates,
    schedules,
    waiting,
    workers,
)
from djtasks.management.process import site_mark
from djtasks.management.tables import can_be_written, printable, table
from djtasks.preflight import preflight as look_ahead
from djtasks.worker import health

EXAMPLES: Final = """
examples:
  manage.py djtasks call shop.tasks.report -a '[2026]' --wait
  manage.py djtasks status                      the workers that live
  manage.py djtasks inspect active              what runs now
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
  manage.py djtasks rate                        how often jobs of tasks may begin, and how many wait for that
  manage.py djtasks rate shop.tasks.sync 10/m   from now on; until: rate shop.tasks.sync code
  manage.py djtasks purge mail --no-input       remove what waits there
  manage.py djtasks prune                       delete jobs that ended longer than RESULT_EXPIRES ago
  manage.py djtasks why 019aa6b1-...            why that job does not run
  manage.py djtasks retry 019aa6b1-...          run it once more, now that it has failed
  manage.py djtasks preflight                   before a deploy, with the new code: what could it not run
  manage.py djtasks from_celery                 DJTASKS as it follows from Celery's settings; changes nothing
  manage.py djtasks retry --state FAILURE --task shop.tasks.export --since 2h
  manage.py djtasks drain --timeout 600         wait until the queues are empty, before maintenance
  manage.py djtasks destroy --dry-run           what uninstalling would remove
"""
BATCHES_SHOWN: Final = 10  # after so many, how far it is
EMPTY: Final = QueueSize(ready=0, scheduled=0, running=0)

Subcommands = Any  # what add_subparsers returns; argparse gives it no public name


_ACTIONS: Final = (*calls.ACTIONS.items(), *queues.ACTIONS.items(), *jobs.ACTIONS.items())


class HelpFormatter(DjangoHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Django's, that leaves the examples in their lines."""


class Command(BaseCommand):
    help = "Look at the queues, the schedules and the workers of djtasks, and hold them."
    requires_system_checks: list[str] = []  # to look is safe, whatever is wrong elsewhere

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.formatter_class = HelpFormatter
        parser.epilog = EXAMPLES
        subcommands = self._with_subcommands(parser)
        self._add_status(subcommands)
        self._add_queues(subcommands)
        self._add_inspect(subcommands)
        self._add_schedule(subcommands)
        self._add_health(subcommands)
        self._add_held(subcommands)
        self._add_prune(subcommands)
        self._add_preflight(subcommands)
        self._add_rate(subcommands)
        self._add_from_celery(subcommands)
        self._add_drain(subcommands)
        self._add_destroy(subcommands)

    def _with_subcommands(self, parser: argparse.ArgumentParser) -> Subcommands:
        """Let `parser` have subcommands; without one it prints its help."""
        parser.set_defaults(answer=lambda given: self.stdout.write(parser.format_help()))
        return parser.add_subparsers(title="subcommands")

    def _parser(self, subcommands: Subcommands, name: str, help: str, description: str = "") -> Any:
        """The parser of one more subcommand; it takes Django's own options, too, wherever they stand."""
        parser = subcommands.add_parser(name, help=help, description=description or help, formatter_class=HelpFormatter)
        for option in ("--settings", "--pythonpath"):
            parser.add_argument(option, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        for option in ("--traceback", "--no-color", "--force-color"):
            parser.add_argument(option, action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        parser.add_argument("-v", "--verbosity", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        return parser

    def handle(self, *args: Any, **given: Any) -> None:
        try:
            given["answer"](given)
        except (BrokerUnavailable, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from error
        except DatabaseError as error:
            raise CommandError(
                f"The database does not do what is asked (manage.py migrate djtasks?): {error}"
            ) from error

    def _add_status(self, subcommands: Subcommands) -> None:
        parser = self._parser(subcommands, "status", help="The workers that live; exit code 1 if there is none.")
        parser.add_argument("--json", action="store_true", help="Print a JSON list instead of a table.")
        parser.set_defaults(answer=self._status)

    def _status(self, given: Mapping[str, Any]) -> None:
        if not self._answer(workers.status, workers.NOBODY, given):
            raise SystemExit(1)

    def _answer(self, ask: workers.Answer, if_nothing: str, given: Mapping[str, Any]) -> bool:
        """Print a table, or JSON. Returns whether there was anything."""
        head, rows, answers = ask()
        if given["json"]:
            self._print_json(answers)
        elif rows:
            self._print_table(head, rows)
        else:
            self.stdout.write(if_nothing)
        return bool(rows)

    def _add_queues(self, subcommands: Subcommands) -> None:
        parser = self._parser(subcommands, "queues", help="How much stands in each queue.")
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
        """What is done to a queue, and what is asked of a job."""
        for name, (add, act, text) in _ACTIONS:
            parser = self._parser(subcommands, name, help=text)
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
            self.stdout.write("\n".join(map(printable, sentence.split("\n"))))
        if given.get("wait") is not None and values["state"] != states.SUCCESS:
            raise SystemExit(1)

    def _add_prune(self, subcommands: Subcommands) -> None:
        parser = self._parser(
            subcommands,
            "prune",
            help="Delete now what has expired. Workers do so by themselves, by the schedule djtasks.prune.",
        )
        parser.add_argument("--json", action="store_true", help="Print a JSON object.")
        parser.set_defaults(answer=self._prune)

    def _prune(self, given: Mapping[str, Any]) -> None:
        tell = self.stderr.write if given["json"] else self.stdout.write
        deleted = 0
        for number, batch in enumerate(upkeep.prune(), start=1):
            deleted += batch
            if number % BATCHES_SHOWN == 0:
                tell(f"{deleted:,} jobs deleted …")
        if given["json"]:
            self._print_json({"deleted": deleted, "expires_after": settings.result_expires})
        elif (seconds := settings.result_expires) is None:
            self.stdout.write("No job expires: DJTASKS['RESULT_EXPIRES'] is None.")
        else:
            ago = f"{seconds / 86400:g} days" if seconds >= 86400 else f"{seconds:g} seconds"
            self.stdout.write(f"{deleted:,} jobs deleted, which had ended more than {ago} ago.")

    def _add_rate(self, subcommands: Subcommands) -> None:
        parser = self._parser(
            subcommands, "rate", help="How often jobs of tasks may begin, and how many run at a time."
        )
        rates.add(parser)
        parser.set_defaults(answer=self._rate)

    def _rate(self, given: Mapping[str, Any]) -> None:
        if given["rate"] is not None:
            self._hold(lambda given: rates.change(given["task"], given["rate"]), given)
            return
        found = rates.listed(given["task"])
        if given["json"]:
            self._print_json(rates.as_json(found))
        elif found:
            self._print_table(rates.HEAD, [rates.as_cells(each) for each in found])
        else:
            self.stdout.write("No limit is known. Workers tell those that stand in the code when they start.")

    def _add_inspect(self, subcommands: Subcommands) -> None:
        parser = self._parser(subcommands, "inspect", help="What waits in a queue, what runs, who knows which tasks.")
        questions = self._with_subcommands(parser)
        ready = self._parser(questions, "waiting", help="What is ready, in the order in which it will run.")
        ready.set_defaults(answer=partial(self._inspect, scheduled=False))
        scheduled = self._parser(questions, "scheduled", help="What waits for its time, the next first.")
        scheduled.set_defaults(answer=partial(self._inspect, scheduled=True))
        for question in (ready, scheduled):
            waiting.add_arguments(question)
        for name, (ask, text, if_nothing) in workers.QUESTIONS.items():
            question = self._parser(questions, name, help=text)
            question.add_argument("--json", action="store_true", help="Print a JSON list instead of a table.")
            question.set_defaults(answer=partial(self._answer, ask, if_nothing))

    def _inspect(self, given: Mapping[str, Any], *, scheduled: bool) -> None:
        if not can_be_written(given["queue"]):
            raise CommandError(f"No queue is named {given['queue']!r:.100}.")
        broker = get_broker()
        offset = given["offset"]
        deliveries = broker.peek(given["queue"], scheduled=scheduled, offset=offset, limit=given["limit"])
        if given["json"]:
            self._print_json([waiting.as_json(each, with_arguments=given["with_arguments"]) for each in deliveries])
            return
        size = broker.sizes().get(given["queue"], EMPTY)
        total = size.scheduled if scheduled else size.ready
        where = f"{'scheduled' if scheduled else 'ready'} in '{printable(given['queue'])}'"
        paused = ", which is paused" if size.paused else ""
        if deliveries:
            last = offset + len(deliveries)
            self.stdout.write(f"{offset + 1}-{last} of {max(total, last)} {where}{paused}")
            head, rows = waiting.table(
                deliveries, first=offset + 1, scheduled=scheduled, with_arguments=given["with_arguments"]
            )
            self._print_table(head, rows)
        else:
            after = f" after the first {offset}; there are {total} in all" if offset else ""
            self.stdout.write(f"Nothing is {where}{paused}{after}.")

    def _add_schedule(self, subcommands: Subcommands) -> None:
        parser = self._parser(
            subcommands, "schedule", help="The schedules: when they run, and to run, pause or resume one."
        )
        questions = self._with_subcommands(parser)
        listing = self._parser(questions, "list", help="All schedules, the next to run first.")
        listing.add_argument("--json", action="store_true", help="Print a JSON list instead of a table.")
        listing.set_defaults(answer=self._list_schedules)
        for name, (act, text) in schedules.ACTIONS.items():
            action = self._parser(questions, name, help=text)
            action.add_argument("names", metavar="NAME", nargs="+")
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
        for name in given["names"]:
            self.stdout.write(act(name))

    def _add_health(self, subcommands: Subcommands) -> None:
        parser = self._parser(
            subcommands,
            "health",
            help="Whether the workers of this machine are well: exit code 0, or 1 and what is wrong.",
        )
        parser.add_argument("--worker", help="Only the worker of this name, as given to runworker -n. Default: all.")
        parser.add_argument("--json", action="store_true", help="Print a JSON object.")
        parser.set_defaults(answer=self._health)

    def _health(self, given: Mapping[str, Any]) -> None:
        site = site_mark()
        found = health.living(given["worker"], site)
        problem = health.verdict(given["worker"], found, site)
        if given["json"]:
            workers = [asdict(each) for each in found]
            self._print_json({"healthy": not problem, "problem": problem, "workers": workers})
            if problem:
                raise SystemExit(1)
        elif problem:
            raise CommandError(problem)
        else:
            self.stdout.write("\n".join(map(health.describe, found)))

    def _add_preflight(self, subcommands: Subcommands) -> None:
        parser = self._parser(
            subcommands,
            "preflight",
            help="Before a deploy: what waits that the code here could not run; exit code 1 if anything.",
        )
        preflight.add_arguments(parser)
        parser.set_defaults(answer=self._preflight)

    def _preflight(self, given: Mapping[str, Any]) -> None:
        found = look_ahead(given["limit"], preflight.progress(self.stderr.write))
        if given["json"]:
            self._print_json(preflight.as_json(found))
        else:
            self.stdout.write("\n".join(preflight.lines(found)))
        if found.findings:
            raise SystemExit(1)

    def _add_from_celery(self, subcommands: Subcommands) -> None:
        parser = self._parser(
            subcommands,
            "from_celery",
            help="What Celery's settings and the tables of django-celery-beat mean here, and take them over.",
        )
        from_celery.add_arguments(parser)
        parser.set_defaults(answer=self._from_celery)

    def _from_celery(self, given: Mapping[str, Any]) -> None:
        try:
            found = from_celery.look(given)
        except ValueError as error:
            raise CommandError(str(error)) from error
        for line in from_celery.lines(found, given):
            self.stdout.write(line)

    def _add_drain(self, subcommands: Subcommands) -> None:
        parser = self._parser(
            subcommands,
            "drain",
            help="Wait until the queues are empty; the schedules rest meanwhile. Exit code 1 if they are not.",
            description=drain.DESCRIPTION,
        )
        drain.add_arguments(parser)
        parser.set_defaults(answer=self._drain)

    def _drain(self, given: Mapping[str, Any]) -> None:
        tell = self.stderr.write if given["json"] else self.stdout.write
        try:
            look, held = drain.run(given, tell)
        except KeyboardInterrupt:
            raise CommandError("Stopped. What was disabled stays so.") from None
        if given["json"]:
            self._print_json(drain.as_json(look, held))
        else:
            self.stdout.write("\n".join(drain.conclusion(look)))
        if look.ending != "drained":
            raise SystemExit(1)

    def _add_destroy(self, subcommands: Subcommands) -> None:
        parser = self._parser(
            subcommands,
            "destroy",
            help="Uninstall: remove all that djtasks keeps in the broker and in the database.",
            description=destroy.DESCRIPTION,
        )
        destroy.add_arguments(parser)
        parser.set_defaults(answer=self._destroy)

    def _destroy(self, given: Mapping[str, Any]) -> None:
        for line in destroy.run(given):
            self.stdout.write(line)

    def _print_table(self, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        self.stdout.write("\n".join(table(head, rows)))

    def _print_json(self, value: object) -> None:
        self.stdout.write(json.dumps(value, indent=2))
