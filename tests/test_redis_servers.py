"""The Redis and Valkey servers of a test's own do what the broker's tests ask of them, and leave nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from redis.sentinel import Sentinel

from tests import redis_servers
from tests.redis_servers import RedisProcess, StartError
from tests.test_servers import gone, holds, running
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parent.parent
KINDS = ["redis", "valkey"]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="own servers are started on Linux and macOS only")


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_synced_survives_a_kill_and_a_restart_on_the_same_port(kind):
    with RedisProcess(kind=kind, options={"appendonly": "yes", "appendfsync": "always"}) as server:
        client, url = server.client(), server.url
        client.set("name", "value")
        server.kill()
        assert not server.running()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        server.restart()
        server.restart()
        assert (client.get("name"), server.url) == (b"value", url)
        pid, folder = server.pid, server.folder
    assert not running(pid)
    assert not folder.exists()


def test_without_append_only_file_nothing_survives():
    with RedisProcess() as server:
        server.client().set("name", "value")
        server.stop()
        assert not server.running()
        server.restart()
        assert server.client().dbsize() == 0


def test_a_paused_server_is_silent_until_it_resumes_and_can_be_ended():
    with RedisProcess() as server:
        client = server.client(socket_timeout=0.2)
        server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        server.resume()
        assert client.ping()
        server.pause()
    assert not server.running()


def test_options_and_files_are_those_of_the_test():
    users = "user default off\nuser django on >s:/e ~djtasks:* &* +@all\n"
    options = {"maxmemory": "5mb", "maxmemory-policy": "noeviction", "aclfile": "users.acl", "unixsocket": "socket"}
    with RedisProcess(options=options, files={"users.acl": users}, user="django", password="s:/e") as server:
        client = server.client()
        assert client.config_get("maxmemory") == {"maxmemory": str(5 * 2**20)}
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.set("name", "value")
        with redis.Redis.from_url(server.unix_url) as local:
            assert local.acl_whoami() == "django"
            assert local.connection_pool.connection_kwargs["db"] == redis_servers.DATABASE


def test_a_server_that_cannot_start_says_why():
    with pytest.raises(StartError, match="unknown-option"):
        RedisProcess(options={"unknown-option": "yes"})
    with pytest.raises(redis.AuthenticationError), RedisProcess(options={"requirepass": "a"}, password="b"):
        pass


@pytest.mark.parametrize("both", ["no", "yes"])
def test_tls_with_an_authority_of_our_own_and_with_certificates_on_both_sides(both, tmp_path):
    certificates = redis_servers.make_certificates(tmp_path)
    with RedisProcess(tls=certificates, options={"tls-auth-clients": both}) as server:
        assert server.client().ping()
        with (
            redis.Redis.from_url(f"rediss://127.0.0.1:{server.port}") as stranger,
            pytest.raises(redis.ConnectionError),
        ):
            stranger.ping()


@pytest.mark.parametrize("kind", KINDS)
def test_sentinels_name_the_replica_when_the_master_is_killed(kind):
    with redis_servers.sentinel_service(kind=kind, options={"requirepass": "secret"}) as service:
        assert service.master_address() == service.master.address
        service.master.kill()
        assert service.wait_for_failover() == service.replica.address
        client = Sentinel(service.addresses).master_for(service.name, password="secret")
        assert client.set("name", "value")
        client.close()
        service.master.restart()
        wait_until(lambda: service.master.role() == "slave", what="the old master's new role")


@pytest.mark.parametrize("kind", KINDS)
def test_a_cluster_of_three_masters_holds_all_slots(kind):
    with redis_servers.cluster(kind=kind) as cluster, cluster.client() as client:
        for number in range(30):
            client.set(f"name{number}", number)
        sizes = [node.client().dbsize() for node in cluster.nodes]
        assert sum(sizes) == 30
        assert all(sizes)


@pytest.mark.parametrize("state", ["running", "paused", "killed"])
def test_nothing_is_left_of_a_killed_test_process(state):
    code = (
        "import time; from tests.redis_servers import RedisProcess; server = RedisProcess()\n"
        f"{ {'running': 'pass', 'paused': 'server.pause()', 'killed': 'server.kill()'}[state] }\n"
        "print(server.pid, server.folder, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        pid, folder = parent.stdout.readline().split()
        parent.kill()
    assert gone(int(pid))
    assert holds(lambda: not Path(folder).exists(), within=5)


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_a_missing_program_skips_the_test_or_fails_it(ci, outcome, monkeypatch):
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(redis_servers.own_servers, "_program", lambda kind, version: None)
    with pytest.raises(outcome, match=r"no redis-server is installed.*apt-get install redis-server"):
        RedisProcess(kind="redis")
