"""Real workers, while Sentinel makes another server the master."""

import pytest

from tests.hosts.conftest import PLACES
from tests.redis_servers import sentinel_service

pytestmark = pytest.mark.parametrize("database", ["postgresql"], indirect=True)

# In an ordered fail-over the old master is alive until it is told: it must not take what it cannot hand over.
NEVER_ALONE = {"min-replicas-to-write": 1}


def as_ordered(service):
    service.sentinels[0].client().execute_command("SENTINEL", "FAILOVER", service.name)


def as_the_master_is_killed(service):
    service.master.kill()


@pytest.mark.parametrize(("fail_over", "options"), [(as_ordered, NEVER_ALONE), (as_the_master_is_killed, {})])
def test_what_had_reached_the_replica_runs_and_workers_go_on(use_queues, two_workers, work, fail_over, options):
    with sentinel_service(kind="redis", options={"appendonly": "yes", **options}) as service:
        hosts = ",".join(f"{host}:{port}" for host, port in service.addresses)
        use_queues(f"redis+sentinel://{hosts}/0?service={service.name}")
        stop = two_workers()
        work.send()
        work.await_begin(6)
        assert service.master.client().wait(1, 5000) == 1
        fail_over(service)
        work.send_when_possible()
        service.wait_for_failover()
        work.send_when_possible()
        assert work.check() <= PLACES
        stop()
