"""What is spread over several machines: work of all kinds, and what must have come of it."""

from collections import Counter
from contextlib import suppress
from itertools import count

import pytest

from djtasks import chord, states
from djtasks.brokers import get_broker
from djtasks.exceptions import BrokerUnavailable
from djtasks.models import Job, JobGroup, Outbox
from tests import tasks
from tests.canvas.tasks import total
from tests.conftest import PREFIX
from tests.waiting import wait_until

PLACES = 4  # jobs that run at a time


class Work:
    """Jobs of all kinds that were accepted, and the file in which each run notes its beginning and its end."""

    def __init__(self, path):
        self.path = path
        self._expected = {}
        self._lines = count()

    def send(self, number=20, seconds=0.1):
        """Send plain jobs, later ones, retries and a chord. Raises what `delay()` does."""
        for at in range(number):
            line = f"{next(self._lines)}"
            countdown = 2.0 if at % 4 == 0 else None
            result = tasks.journal.apply_async((str(self.path), line, seconds), countdown=countdown)
            self._expected[result] = line
        self._expected[tasks.succeed_at.delay(f"{self.path}.retries", 3, 1.0)] = 2
        body = chord([tasks.add.s(1, each) for each in range(5)])(total.s())
        self._expected[body] = 15

    def send_until(self, condition, seconds=30.0):
        """Go on sending, whatever is refused, until the condition is true."""

        def send_more():
            with suppress(BrokerUnavailable):
                self.send(4)
            return condition()

        wait_until(send_more, seconds, what="what ends the sending")

    def send_when_possible(self, seconds=30.0):
        """Send as soon as the broker takes a job again."""
        wait_until(self._is_taken, seconds, what="a broker that takes jobs")
        self.send()

    def _is_taken(self):
        try:
            self._expected[tasks.add.delay(1, 1)] = 2
        except BrokerUnavailable:
            return False
        return True

    def begun(self):
        """How often each job of the file began."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return Counter(line.split()[1] for line in lines if line.startswith("begin"))

    def await_begin(self, number):
        """Wait until that many have begun."""
        wait_until(lambda: len(self.begun()) >= number, what=f"{number} jobs that began")

    def check(self, seconds=60.0):
        """All ended well, and nothing is left of them. Returns how many of the file's began a second time."""
        results = {result.id: result.get(timeout=seconds) for result in self._expected}
        assert results == {result.id: value for result, value in self._expected.items()}
        # Of what was refused some may have arrived; a row of the outbox that was sent goes with the next look.
        wait_until(lambda: not self._left(), what="empty queues, and an empty outbox")
        assert set(Job.objects.values_list("state", flat=True)) == {states.SUCCESS}
        assert JobGroup.objects.unfinished().count() == 0
        assert self.begun().keys() >= {value for value in results.values() if isinstance(value, str)}
        return sum(self.begun().values()) - len(self.begun())

    def _left(self):
        """Whether anything waits or runs, or is still to be sent."""
        broker = get_broker()
        return bool(Outbox.objects.count() or broker.sizes() or broker.owners())


@pytest.fixture
def work(tmp_path):
    return Work(tmp_path / "journal")


@pytest.fixture
def use_queues(settings):
    """Let the queues be in Redis, where a URL says."""

    def use(url, **options):
        own = {"BROKER_URL": url, "TEST_BROKER_URL": url, "BROKER_OPTIONS": {"prefix": PREFIX, **options}}
        settings.DJTASKS = {**settings.DJTASKS, **own}

    return use


@pytest.fixture
def two_workers(start_worker):
    """Start two workers for two jobs each. Returns a function that stops them and looks whether all was well."""

    def start():
        workers = [start_worker("-c", str(PLACES // 2), WORKER_LOST_AFTER=5.0) for _ in range(2)]

        def stop():
            assert [worker.process.poll() for worker in workers] == [None, None]
            assert [worker.stop() for worker in workers] == [0, 0]
            output = "".join(worker.output for worker in workers)
            assert "Traceback" not in output
            assert "its connection is cut" not in output  # the database has answered all the time

        return stop

    return start
