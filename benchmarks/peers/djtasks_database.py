"""djtasks with the database broker, on whichever database the session has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from benchmarks import databases, tasks
from benchmarks.peers.base import CHILDREN, PYTHON, Peer
from djtasks import AsyncResult, chain, chord, crontab, states
from djtasks.brokers import get_broker
from djtasks.message import Delivery, Message, Outcome, new_id
from djtasks.models import Job, PeriodicTask
from djtasks.worker.ledger import Ledger


class Djtasks(Peer):
    """Every result is stored, in the same transaction that finishes the job."""

    composes: ClassVar[bool] = True
    schedules: ClassVar[bool] = True
    limits: ClassVar[bool] = True
    steps: ClassVar[bool] = True

    def prepare(self) -> None:
        databases.create()

    def worker_command(self) -> list[str]:
        return [PYTHON, "-m", "django", "runworker", "--concurrency", str(CHILDREN), "--loglevel", "WARNING"]

    def send(self, number: int, seconds: float = 0.0) -> AsyncResult[int]:
        return tasks.mark.delay(number, seconds)

    def send_many(self, numbers: Sequence[int], seconds: float = 0.0) -> None:
        tasks.mark.enqueue_many([(number, seconds) for number in numbers])

    def send_limited(self, kind: str, numbers: Sequence[int]) -> None:
        tasks.LIMITED[kind].enqueue_many([(number,) for number in numbers])

    def result(self, handle: AsyncResult[int]) -> int:
        return handle.get(timeout=10)

    def chord(self, members: int) -> int:
        return int(chord((tasks.noop.s(number) for number in range(members)), tasks.count.s())().get(timeout=60))

    def chain(self, steps: int) -> int:
        return int(chain(tasks.increment.s(0), *(tasks.increment.s() for _ in range(steps - 1)))().get(timeout=60))

    def schedule(self, numbers: Sequence[int], seconds: float) -> datetime:
        due = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds + 1)
        when = crontab(second=due.second)
        PeriodicTask.objects.bulk_create(
            PeriodicTask(name=f"{number}", task=tasks.mark.name, args=f"[{number}]", schedule=when)
            for number in numbers
        )
        PeriodicTask.objects.update(next_run_at=due)
        return due

    def sent_after(self, due: datetime) -> list[float]:
        moments = Job.objects.exclude(periodic_task=None).values_list("created_at", flat=True)
        return [(moment - due) / timedelta(milliseconds=1) for moment in moments]

    def send_scheduled(self, jobs: int) -> None:
        portion = [Message(id="", task=tasks.mark.name, args="[0]", countdown=3e7, priority=100)] * min(jobs, 5_000)
        for _ in range(0, jobs, 5_000):
            get_broker().enqueue([replace(each, id=new_id()) for each in portion])

    def store_finished(self, jobs: int) -> None:
        databases.multiply(Job.objects.finished().values_list("pk", flat=True)[0], jobs)

    def settle(self) -> None:
        databases.settle()

    def wear(self) -> Mapping[str, float | None]:
        return databases.wear()

    def one_turn(self, numbers: Sequence[int]) -> Iterator[Callable[[], object]]:
        broker, worker = get_broker(), "bench.1"
        ledger = Ledger(broker, worker)
        claimed: list[Delivery] = []
        yield lambda: self.send_many(numbers)
        yield lambda: claimed.extend(broker.claim("default", limit=len(numbers), worker=worker))
        for each in claimed:
            ledger.record(Outcome(delivery=each, state=states.SUCCESS, seconds=0.001, result="1"))
        yield ledger.commit

    def settled(self) -> int:
        return Job.objects.finished().count()

    def durability(self) -> str:
        return databases.durability()

    def clean_up(self) -> None:
        databases.drop()


PEER = Djtasks
