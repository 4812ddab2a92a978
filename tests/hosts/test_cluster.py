"""Real workers on a Redis Cluster, which its own program makes, and changes while they work."""

import shutil
import subprocess
from contextlib import ExitStack, contextmanager

import pytest

from djtasks.brokers import get_broker
from tests import servers
from tests.hosts.conftest import PLACES
from tests.redis_servers import SLOTS, Cluster, await_cluster, cluster_node, skip_or_fail

pytestmark = pytest.mark.parametrize("database", ["postgresql"], indirect=True)

MASTERS = 3


def redis_cli(*arguments):
    """What the program says. It answers yes to itself, and fails the test if it fails."""
    if shutil.which("redis-cli") is None:
        skip_or_fail("no redis-cli is installed. `apt-get install redis-tools`")
    command = ["redis-cli", *map(str, arguments), "--cluster-yes"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def queues_in_cluster(use_queues, replicas):
    """Three masters, each with so many replicas; the queues are there."""
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(servers.on_a_free_port(lambda: cluster_node("redis", {"appendonly": "yes"})))
            for _ in range(MASTERS * (1 + replicas))
        ]
        addresses = [f"{node.host}:{node.port}@{node.bus_port}" for node in nodes]
        redis_cli("--cluster", "create", *addresses, "--cluster-replicas", replicas)
        for node in nodes:
            await_cluster(node, MASTERS)
        use_queues(f"redis+cluster://{','.join(f'{node.host}:{node.port}' for node in nodes[:MASTERS])}")
        yield Cluster(nodes)


def master_of_the_queues(nodes):
    """The node that has all keys of the prefix."""
    with nodes.client() as client:
        found = client.get_node_from_key(get_broker().keys.jobs)
        return next(node for node in nodes.nodes if node.port == found.port)


def test_jobs_go_on_while_the_slots_of_their_keys_move_to_another_master(use_queues, two_workers, work):
    with queues_in_cluster(use_queues, replicas=0) as nodes:
        stop = two_workers()
        work.send()
        work.await_begin(6)
        old = master_of_the_queues(nodes)
        new = next(node for node in nodes.nodes if node is not old)
        ids = [node.client(decode_responses=True).execute_command("CLUSTER", "MYID") for node in (old, new)]
        redis_cli(
            *("--cluster", "reshard", f"{new.host}:{new.port}", "--cluster-slots", SLOTS // MASTERS + 1),
            *("--cluster-from", ids[0], "--cluster-to", ids[1]),
        )
        work.send_when_possible()
        assert master_of_the_queues(nodes) is new
        assert work.check() <= PLACES
        stop()


def test_what_had_reached_the_replica_of_a_master_that_is_killed_runs_and_workers_go_on(use_queues, two_workers, work):
    with queues_in_cluster(use_queues, replicas=1) as nodes:
        stop = two_workers()
        work.send()
        work.await_begin(6)
        old = master_of_the_queues(nodes)
        assert old.client().wait(1, 5000) == 1
        old.kill()
        work.send_when_possible()
        assert work.check() <= PLACES
        stop()
