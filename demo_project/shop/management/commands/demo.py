"""`manage.py demo`: the site and a worker, busy with a sample of real work."""

from __future__ import annotations

import os
import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.core.management.base import BaseCommand
from django.urls import reverse
from django.utils.crypto import get_random_string
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from demo_project.shop.processes import Child, ChildDied, free_port, signals_as_exit, stopping
from demo_project.shop.samples import SAMPLES, Sample, ending_of, words
from demo_project.shop.views import standing
from demo_project.shop.visitor import Visitor
from djtasks import AsyncResult, states
from djtasks.models import Job, PeriodicTask

USERNAME = "demo"
FIRST_PORT = 8000
TIME_FOR_START = 30.0  # seconds
PAUSE = 0.15  # seconds between two looks
RUN_AS = {"DEBUG": "true", "ALLOWED_HOSTS": "127.0.0.1,localhost", "DJTASKS_RUNSERVER_WORKER": "false"}


@dataclass(frozen=True, slots=True)
class Sent:
    """A sample on its way."""

    sample: Sample
    result: AsyncResult[Any]


class Command(BaseCommand):
    help = (
        "Show djtasks at work: migrate the database, start the site and a worker, queue a sample of real work, "
        "show its progress and its results, and serve on 127.0.0.1 until Ctrl-C. Prints a login for the admin; "
        "that login is made under DEBUG only, with a new password each time. DATABASE_URL names another database "
        "than the SQLite file beside manage.py, MEDIA_ROOT another folder for what the jobs write."
    )
    requires_system_checks: list[str] = []  # they have nothing to say before the database is there

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--once",
            action="store_true",
            help="stop after the results; the exit code is 0 only if each is what it must be, else 1",
        )
        parser.add_argument("--port", type=int, default=FIRST_PORT, help="first port to try (default: %(default)s)")
        parser.add_argument("--timeout", type=float, default=60, help="seconds for the work (default: %(default)s)")

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DEBUG:
            raise CommandError("The demo makes a login for everything, so it runs under DEBUG only: set DEBUG=true.")
        demo = Demo(Console(), options["port"])
        try:
            with signals_as_exit():
                faults = demo.run(once=options["once"], timeout=options["timeout"])
        except ChildDied as error:
            raise CommandError(str(error)) from None
        except KeyboardInterrupt:
            demo.console.print("Stopped.")
            sys.exit(130)
        if faults:
            raise CommandError("Not as it must be:\n" + "\n".join(faults))


class Demo:
    """One run of the demo."""

    def __init__(self, console: Console, first_port: int) -> None:
        self.console = console
        self.port = free_port(first_port)
        self.address = f"http://127.0.0.1:{self.port}"
        self.password = get_random_string(10)
        self.children: list[Child] = []

    def run(self, *, once: bool, timeout: float) -> list[str]:
        """Do it all. Returns what is not as it must be; without `once`, after Ctrl-C."""
        with self.console.status("Migrating the database …"):
            call_command("migrate", verbosity=0)
        self.make_login()
        make_schedule()
        with stopping(self.children):
            self.start()
            sent = [Sent(sample, queued(sample)) for sample in SAMPLES]
            self.follow(sent, timeout)
            self.show_results(sent)
            faults = [*faults_of(sent), *self.site_faults(sent)]
            if once:
                return faults
            for fault in faults:
                self.console.print(f"[red]Not as it must be:[/] {escape(fault)}")
            self.serve()
        return []

    def make_login(self) -> None:
        users = get_user_model().objects
        user, _ = users.get_or_create(username=USERNAME)
        user.is_staff = user.is_superuser = user.is_active = True
        user.set_password(self.password)
        user.save()

    def start(self) -> None:
        """Start the site and the worker, and wait until the site answers."""
        self.start_child("site", "runserver", "--noreload", f"127.0.0.1:{self.port}")
        self.start_child("worker", "runworker")
        with self.console.status("Starting the site and a worker …"):
            deadline = time.monotonic() + TIME_FOR_START
            while not self.answers():
                self.check_children()
                if time.monotonic() > deadline:
                    raise ChildDied(f"The site does not answer. The end of its log:\n{self.children[0].tail()}")
                time.sleep(PAUSE)

    def start_child(self, name: str, *command: str) -> None:
        environment = {**os.environ, **RUN_AS, "SECRET_KEY": settings.SECRET_KEY, "PYTHONUNBUFFERED": "1"}
        manage = str(settings.BASE_DIR / "manage.py")
        log = Path(settings.MEDIA_ROOT) / "logs" / f"{name}.log"
        self.children.append(Child(name, [sys.executable, manage, *command], environment, log))

    def answers(self) -> bool:
        try:
            return Visitor(self.address).status(reverse("start"))[0] == 200
        except OSError:
            return False

    def check_children(self) -> None:
        for child in self.children:
            child.check()

    def follow(self, sent: Sequence[Sent], timeout: float) -> None:
        """Show how far the jobs are, until all have ended or `timeout` seconds are over."""
        deadline = time.monotonic() + timeout
        texts = (TextColumn("{task.description}"), TextColumn("{task.fields[state]}"))
        columns = (texts[0], BarColumn(), texts[1], TimeElapsedColumn())
        with Progress(*columns, console=self.console) as progress:
            lines = {each.result.id: progress.add_task(each.sample.title, total=None, state="") for each in sent}
            waiting = list(sent)
            while waiting and time.monotonic() < deadline:
                self.check_children()
                now = {each.result.id: standing(each.result) for each in waiting}
                for job_id, stand in now.items():
                    show(progress, lines[job_id], stand)
                waiting = [each for each in waiting if not now[each.result.id]["ready"]]
                time.sleep(PAUSE)

    def show_results(self, sent: Sequence[Sent]) -> None:
        table = Table("Task", "State", "Time", "Result", "Right")
        for each in sent:
            ending = ending_of(each.result)
            colour = {states.SUCCESS: "green", states.FAILURE: "red"}.get(ending.state, "yellow")
            mark = "[red]no[/]" if each.sample.fault(ending) else "yes"
            state = f"[{colour}]{escape(ending.state)}[/]"
            table.add_row(each.sample.title, state, duration(each.result.id), escape(words(each.sample, ending)), mark)
        self.console.print(table)

    def site_faults(self, sent: Sequence[Sent]) -> list[str]:
        """Look at the jobs in the admin, as somebody with the demo login would."""
        visitor = Visitor(self.address)
        if not visitor.sign_in(USERNAME, self.password):
            return ["The admin does not accept the demo login."]
        addresses = [reverse("admin:djtasks_job_change", args=[each.result.id]) for each in sent]
        addresses += [reverse("admin:djtasks_job_changelist"), reverse("admin:djtasks_periodictask_changelist")]
        answers = [(address, visitor.status(address)) for address in addresses]
        return [f"{address} answers {code}" for address, (code, led_to) in answers if (code, led_to) != (200, address)]

    def serve(self) -> None:
        """Tell where everything is, and go on until Ctrl-C."""
        try:
            self.show_addresses()
            while True:
                self.check_children()
                time.sleep(PAUSE)
        except KeyboardInterrupt:
            self.console.print("Stopping …")

    def show_addresses(self) -> None:
        self.console.print(
            f"\nThe shop:  [bold]{self.address}/[/]"
            f"\nThe admin: [bold]{self.address}{reverse('admin:djtasks_job_changelist')}[/]"
            f"\nSchedules: [bold]{self.address}{reverse('admin:djtasks_periodictask_changelist')}[/]"
            f"\nLogin:     [bold]{USERNAME}[/], password [bold]{self.password}[/]"
            f"\nLogs:      {escape(str(self.children[0].log.parent))}"
            "\nCtrl-C stops the site and the worker.",
            highlight=False,
            soft_wrap=True,
        )


def make_schedule() -> None:
    """Add a schedule to the database, as one would in the admin; one that is there already stays as it is."""
    PeriodicTask.objects.get_or_create(
        name="Primes of the quarter hour",
        defaults={
            "task": "demo_project.shop.tasks.sum_primes",
            "schedule": "*/15 9-17 * * mon-fri",
            "timezone": "Asia/Seoul",
            "kwargs": '{"below": 1000000}',
        },
    )


def queued(sample: Sample) -> AsyncResult[Any]:
    result = sample.send()
    if result is None:
        raise CommandError(f"{sample.title} was not queued: is TASK_ALWAYS_EAGER set?")
    return result


def show(progress: Progress, line: Any, now: dict[str, Any]) -> None:
    if now["ready"]:
        progress.update(line, state=now["state"], total=1, completed=1)
        progress.stop_task(line)
        return
    retries = f" (try {now['retries'] + 1})" if now["retries"] else ""
    progress.update(line, state=now["state"] + retries, total=now["total"], completed=now["done"] or 0)


def faults_of(sent: Sequence[Sent]) -> list[str]:
    """Return what is not as it must be, one sentence each."""
    found = [(each.sample.title, each.sample.fault(ending_of(each.result))) for each in sent]
    return [f"{title}: {fault}" for title, fault in found if fault]


def duration(job_id: str) -> str:
    """Return the time from queueing a job to its end, waiting and retries included."""
    job = Job.objects.filter(pk=job_id).first()
    if job is None or job.finished_at is None:
        return "…"
    return f"{(job.finished_at - job.created_at).total_seconds():.2f} s"
