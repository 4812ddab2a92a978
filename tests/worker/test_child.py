"""One process that runs jobs, as an object: what it does before a job's own code."""

import pytest

from djtasks import states
from djtasks.brokers import get_broker
from djtasks.worker.child import Child
from djtasks.worker.options import WorkerOptions
from djtasks.worker.slots import Slots
from tests import tasks

pytestmark = pytest.mark.every_broker


@pytest.fixture
def child(database):
    child = Child("w.1", 0, Slots(1), WorkerOptions(pool="solo", queues=("default",)))
    child.slots.beat()
    return child


def test_a_job_taken_before_its_worker_was_stopped_for_long_does_not_begin_as_it_wakes(child, monkeypatch, tmp_path):
    journal = tmp_path / "journal"
    tasks.journal.delay(str(journal), "x", 0.0)
    (delivery,) = get_broker().claim("default", limit=1, worker="w.1")
    execution = child.execution((delivery,), 0)
    monkeypatch.setattr(child.slots, "beat_age", lambda: 3600.0)
    (outcome,) = execution.run()
    assert (outcome.state, journal.exists()) == (states.PENDING, False)
    monkeypatch.undo()
    (outcome,) = child.execution((delivery,), 0).run()
    assert (outcome.state, journal.exists()) == (states.SUCCESS, True)
