"""Real workers, while Sentinel makes another server the master."""

import pytest

from tests.hosts.conftest import PLACES
from tests.redis_servers import sentinel_service

pytestmark = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


def as_ordered(service):
    service.sentinels[0].client().execute_command("SENTINEL", "FAILOVER", service.name)


def as_the_master_is_killed(service):
    service.master.kill()


@pytest.mark.parametrize("fail_over", [as_ordered, as_the_master_is_killed])
def test_what_a_replica_had_before_it_was_accepted_runs_and_workers_go_on(use_queues, two_workers, work, fail_over):
    with sentinel_service(kind="redis", options={"appendonly": "yes"}) as service:
        hosts = ",".join(f"{host}:{port}" for host, port in service.addresses)
        use_queues(f"redis+sentinel://{hosts}/0?service={service.name}", replicas=1)
        stop = two_workers()
        work.send()
        work.await_begin(6)
        fail_over(service)
        work.send_until(lambda: service.replica.role() == "master")
        service.wait_for_failover()
        if not service.master.running():
            service.master.restart()
        work.send_when_possible()
        assert work.check() <= PLACES
        stop()
