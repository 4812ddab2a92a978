"""Rates, places and unique jobs where several jobs run in one process: as in prefork."""

import pytest

from djtasks import states
from djtasks.models import Job
from tests import tasks
from tests.waiting import wait_until
from tests.worker.test_places import events, most_at_a_time
from tests.worker.test_rates import lines, most_within

KINDS = [("threads", "postgresql"), ("threads", "redis"), ("asyncio", "sqlite"), ("asyncio", "redis")]


@pytest.mark.parametrize(("pool", "database"), KINDS, indirect=["database"])
def test_limits_hold_in_pools_with_several_jobs_in_a_process(start_worker, tmp_path, pool):
    paced, few, one = (tmp_path / name for name in ("paced", "few", "one"))
    start_worker("-P", pool, "-c", "8")
    handles = tasks.only_one.enqueue_many([(str(one),)] * 3)
    tasks.paced.enqueue_many([(str(paced),)] * 40)
    tasks.few_at_a_time.enqueue_many([(str(few), number, 0.1) for number in range(8)])
    wait_until(lambda: Job.objects.filter(state=states.SUCCESS).count() == 49)
    assert most_within(0.2, sorted(map(float, lines(paced)))) <= 25  # of a hundred a second; a thread may come late
    assert most_at_a_time(events(few)) == 2
    assert len({each.id for each in handles}) == 1
    assert lines(one) == ["return"]
