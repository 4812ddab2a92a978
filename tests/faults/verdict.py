"""What came of the jobs: ledger, journal, rows and broker, held against each other."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from djtasks import states
from djtasks.brokers import get_broker
from djtasks.models import Job, JobGroup, Outbox, Worker
from tests.faults.fleet import Fleet
from tests.faults.plan import Verdict
from tests.faults.runs import Run
from tests.faults.stage import Stage

UNCOMMITTED = 2.0  # seconds after its end in which an outcome may be lost with its process, while no store is away
SHOWN = 20  # problems of one sort
MAX_LOSSES = 3  # TASK_MAX_LOSSES
LOST = "djtasks.exceptions.WorkerLostError"
CONSEQUENCES = ("djtasks.exceptions.ChordError",)
COMPLAINTS = ("stumbled", "cannot be stored", "Traceback (most recent call last)")


@dataclass(slots=True)
class Ledger:
    """What the producer noted."""

    accepted: dict[str, tuple[str, Any]] = field(default_factory=dict)  # id → kind, the result it must have
    undone: set[str] = field(default_factory=set)  # rolled back
    refused: Counter[str] = field(default_factory=Counter)  # by the name of the error

    @classmethod
    def read(cls, fleet: Fleet) -> Ledger:
        ledger = cls()
        for line in fleet.ledger.read_text().splitlines():
            entry = json.loads(line)
            if entry["word"] == "refused":
                ledger.refused[entry["why"].split(":")[0]] += 1
            elif entry["word"] == "undone":
                ledger.undone |= entry["ids"].keys()
            else:
                ledger.accepted |= {job: (entry["kind"], value) for job, value in entry["ids"].items()}
        return ledger


def is_drained() -> bool:
    """Whether nothing waits and nothing runs any more."""
    waiting = sum(size.ready + size.scheduled for size in get_broker().sizes().values())
    unfinished = Job.objects.exclude(state__in=states.SETTLED).exists()
    return not (waiting or unfinished or get_broker().owners() or Outbox.objects.exists())


class Judge:
    """Compares. `stage` knows what was done to the processes and the servers."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.fleet = stage.fleet
        self.ledger = Ledger.read(stage.fleet)
        self.rows = {row[0]: row for row in Job.objects.values_list("pk", "state", "exception", "result", "losses")}
        self.deaths = _earliest({each.pid: each.at for each in self.fleet.deaths}, self.fleet.runs.deaths())
        self.presumed_dead = _presumed_dead()
        self.verdict = Verdict(problems=list(stage.problems))

    def judge(self) -> Verdict:
        verdict = self.verdict
        verdict.accepted, verdict.refused = len(self.ledger.accepted), self.ledger.refused.total()
        verdict.unconfirmed = len(self.rows.keys() - self.ledger.accepted.keys() - self.ledger.undone)
        verdict.finished = sum(state in states.FINISHED for _, state, *_ in self.rows.values())
        self._complain(self._lost(), "lost")
        verdict.lost = len(verdict.problems) - len(self.stage.problems)
        self._complain(self._undone(), "rolled back")
        self._complain(self._wrong(), "ended otherwise")
        self._complain(self._doubles(), "run twice for no reason")
        self._complain(self._left(), "left")
        self._complain(self._logged(), "logged")
        return verdict

    def _complain(self, problems: Iterator[str], what: str) -> None:
        found = list(problems)
        self.verdict.problems += [f"{what}: {each}" for each in found[:SHOWN]]
        if len(found) > SHOWN:
            self.verdict.problems.append(f"{what}: {len(found) - SHOWN} more")

    def _lost(self) -> Iterator[str]:
        for job, (kind, _) in self.ledger.accepted.items():
            if kind == "forgotten":
                if not any(run.ended is not None for run in self.fleet.runs.of(job)) and job not in self.rows:
                    yield f"{kind} job {job} never ran to its end"
            elif job not in self.rows:
                yield f"{kind} job {job} has no row"
            elif self.rows[job][1] not in states.FINISHED:
                yield f"{kind} job {job} is {self.rows[job][1]}"

    def _undone(self) -> Iterator[str]:
        for job in self.ledger.undone:
            if job in self.rows or self.fleet.runs.of(job):
                yield f"job {job} is there, or ran"

    def _wrong(self) -> Iterator[str]:
        given_up = self._given_up()
        self.verdict.given_up = len(given_up)
        for job, (kind, value) in self.ledger.accepted.items():
            _, state, exception, result, losses = self.rows.get(job, (job, states.SUCCESS, "", "null", 0))
            if kind == "poison":
                if (state, exception) != (states.FAILURE, LOST):
                    yield f"poison job {job} is {state} {exception}"
            elif state == states.FAILURE and kind == "early" and exception == LOST and self._died_in(job):
                self.verdict.ended_early += 1
            elif state == states.FAILURE and (job in given_up or (given_up and exception in CONSEQUENCES)):
                continue
            elif state != states.SUCCESS:
                yield f"{kind} job {job} is {state} {exception} (losses {losses})"
            elif kind != "forgotten" and json.loads(result or "null") != value:
                yield f"{kind} job {job} gave {result}, not {value}"

    def _given_up(self) -> set[str]:
        """Jobs whose processes died so often that they were taken for poison."""
        return {
            job
            for job, (kind, _) in self.ledger.accepted.items()
            if kind not in ("poison", "early")
            and self.rows.get(job, (0, 0, ""))[2] == LOST
            and sum(self._cause(run, None) is not None for run in self.fleet.runs.of(job)) >= MAX_LOSSES
        }

    def _died_in(self, job: str) -> bool:
        runs = self.fleet.runs.of(job)
        # One that has begun by the broker, and whose process died before its own first line, has no run to tell of it.
        return any(self._cause(run, None) for run in runs) if runs else bool(self.deaths)

    def _doubles(self) -> Iterator[str]:
        kinds = self.ledger.accepted
        for job, tries in _by_try(self.fleet.runs.all()).items():
            kind = kinds.get(job, ("unconfirmed", None))[0]
            for runs in tries:
                for run, following in pairwise(runs):
                    cause = self._cause(run, following)
                    if kind == "early":
                        yield f"early job {job} began a second time"
                    elif cause is None:
                        yield f"{kind} job {job} ({run}, then {following})"
                    elif kind != "poison":
                        self.verdict.twice[cause] += 1

    def _cause(self, run: Run, following: Run | None) -> str | None:
        """Why a run was followed by another of the same try; None if there is no reason."""
        before = following.began if following is not None else float("inf")
        lost = [at for at in self.presumed_dead[run.parent] if run.began <= at <= before + 1.0]
        died = min(filter(None, (self.deaths.get(run.pid), self.deaths.get(run.parent))), default=None)
        if died is not None and run.began - 0.1 <= died <= before:
            if run.ended is None or run.ended > died:
                return "its process died in it"
            if died - run.ended < UNCOMMITTED or self._was_out(run.ended, died) or lost:
                return "its process died before the commit"
            return None
        return "its worker was taken for dead" if lost else None

    def _was_out(self, since: float, until: float) -> bool:
        return any(began <= until and ended + UNCOMMITTED >= since for began, ended in self.stage.outages)

    def _left(self) -> Iterator[str]:
        for job, state, *_ in self.rows.values():
            if state not in states.FINISHED and job not in self.ledger.accepted:
                yield f"job {job} is {state}"
        if owners := get_broker().owners():
            yield f"leases of {', '.join(sorted(owners))}"
        for queue, size in get_broker().sizes().items():
            if size.ready or size.scheduled:
                yield f"{size} in {queue}"
        if unsent := Outbox.objects.count():
            yield f"{unsent} messages in the outbox"
        for group in JobGroup.objects.unfinished():
            members = dict(Job.objects.filter(group_id=group.pk).values_list("pk", "state"))
            yield f"group {group.pk} ({group.remaining} of {group.size} not counted): {members}"

    def _logged(self) -> Iterator[str]:
        for log in sorted(self.fleet.folder.glob("*.log")):
            for line in log.read_text(errors="replace").splitlines():
                if any(words in line for words in COMPLAINTS):
                    yield f"{log.name}: {line[:300]}"


def _by_try(runs: list[Run]) -> dict[str, list[list[Run]]]:
    """The runs of each try of each job that had several."""
    tries: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for run in runs:
        tries[run.job, run.retries].append(run)
    jobs: dict[str, list[list[Run]]] = defaultdict(list)
    for (job, _), several in tries.items():
        if len(several) > 1:
            jobs[job].append(several)
    return jobs


def _earliest(*deaths: dict[int, float]) -> dict[int, float]:
    return {pid: min(each[pid] for each in deaths if pid in each) for each in deaths for pid in each}


def _presumed_dead() -> dict[int, list[float]]:
    """When workers were declared lost (monotonic), by the supervisor's process."""
    found: dict[int, list[float]] = defaultdict(list)
    monotonic = time.monotonic() - time.time()
    for pid, lost_at in Worker.objects.exclude(lost_at=None).values_list("pid", "lost_at"):
        found[pid].append(lost_at.timestamp() + monotonic)
    return found
