"""`runworker --metrics-port`: what a real worker tells of itself."""

import os
import re
import signal
import socket
import urllib.error
import urllib.request

import pytest
from django.core.management import CommandError, call_command

from djtasks import states
from djtasks.message import Delivery, Message, Outcome
from djtasks.worker import port
from djtasks.worker.counters import Counters, pair, received
from tests import tasks
from tests.monitoring.scraping import Samples
from tests.waiting import wait_until

SUCCESS, FAILURE = (("djtasks_worker_jobs_total", "default", state) for state in (states.SUCCESS, states.FAILURE))


def url_of(worker):
    return re.search(r"metrics: +(http://\S+)/metrics", worker.output)[1]


def get(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def scrape(worker):
    return Samples(get(f"{url_of(worker)}/metrics"))


def jobs(samples, task, state):
    return samples.get(("djtasks_worker_jobs_total", "default", state, f"tests.tasks.{task}"), 0)


@pytest.mark.every_broker
@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_what_all_processes_ran_is_counted_in_one_place(start_worker, pool):
    worker = start_worker("-P", pool, "--metrics-port", "0", *(["-c", "2"] if pool == "prefork" else []))
    for number in range(20):
        tasks.add.delay(number, 1)
    tasks.fail.delay()
    wait_until(lambda: jobs(scrape(worker), "add", "SUCCESS") == 20 and jobs(scrape(worker), "fail", "FAILURE") == 1)
    samples = scrape(worker)
    assert samples["djtasks_worker_run_seconds_count", "tests.tasks.add"] == 20
    assert samples["djtasks_worker_run_seconds_bucket", "+Inf", "tests.tasks.add"] == 20
    assert samples["djtasks_worker_wait_seconds_count", "default"] == 21
    assert samples["djtasks_worker_places",] == (2 if pool == "prefork" else 1)
    assert samples["djtasks_worker_beat_age_seconds",] < 10
    assert get(f"{url_of(worker)}/health") == "well\n"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(f"{url_of(worker)}/admin")
    assert worker.stop() == 0


def test_counts_outlive_the_processes_that_counted(start_worker, tmp_path):
    """A child that is replaced has sent what it counted; its death is counted by the keeper."""
    worker = start_worker("-c", "1", "--metrics-port", "0", "--max-tasks-per-child", "1", TASK_MAX_LOSSES=1)
    for number in range(3):
        tasks.add.delay(number, 1)
    tasks.kill_own_process.delay(str(tmp_path / "runs"))
    wait_until(lambda: jobs(scrape(worker), "add", "SUCCESS") == 3)
    wait_until(lambda: jobs(scrape(worker), "kill_own_process", "FAILURE") == 1)


def test_a_keeper_that_is_replaced_takes_over_the_port(start_worker):
    worker = start_worker("-c", "1", "--metrics-port", "0")
    keeper = worker.children()[0]
    os.kill(keeper, signal.SIGKILL)
    tasks.add.delay(1, 1)
    wait_until(lambda: worker.children() and keeper not in worker.children())
    wait_until(lambda: jobs(scrape(worker), "add", "SUCCESS") == 1)


def test_a_port_that_is_taken_is_known_at_once():
    listens, *_ends = port.scrape_at("0")
    taken = port.address_of(listens).rpartition(":")[2]
    with pytest.raises(CommandError, match=f"127.0.0.1:{taken} cannot be had"):
        call_command("runworker", metrics_port=taken)


@pytest.mark.parametrize("where", ["", "here", "99999", "127.0.0.1:", "-1"])
def test_what_is_no_port_is_refused(where):
    with pytest.raises(CommandError, match="takes a port"):
        call_command("runworker", metrics_port=where)


def test_without_prometheus_client_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(port, "find_spec", lambda _name: None)
    with pytest.raises(CommandError, match=r"djtasks\[prometheus\]"):
        call_command("runworker", metrics_port="0")


def outcome(task="tests.tasks.add", queue="default", state=states.SUCCESS):
    return Outcome(delivery=Delivery(Message(id="1", task=task, queue=queue), "w.1", 1), state=state, seconds=0.1)


def test_tasks_that_nobody_knows_share_one_label():
    hears, sends = pair()
    counters = Counters(sends)
    counters.add([outcome(f"no.such.task{number}") for number in range(100)])
    counters.send(at_once=True)
    assert [(task, queue, figures.counts) for task, queue, figures in received(hears)] == [
        ("(unknown)", "default", {"SUCCESS": 100})
    ]


def test_counts_that_nobody_hears_wait_and_hold_up_nobody():
    hears, sends = pair()
    counters = Counters(sends)
    for _ in range(3):
        counters.add(outcome(queue=f"queue{number}") for number in range(1000))
        counters.send(at_once=True)
    heard = 0
    while found := sum(figures.counts["SUCCESS"] for _task, _queue, figures in received(hears)):
        heard += found
        counters.send(at_once=True)
    assert heard == 3000


def test_a_descriptor_that_a_job_has_taken_from_us_is_not_written_to(tmp_path):
    _hears, sends = pair()
    counters = Counters(sends)
    with (tmp_path / "file").open("wb") as file:
        os.dup2(file.fileno(), sends)
        counters.add([outcome()])
        counters.send(at_once=True)
    assert not (tmp_path / "file").read_bytes()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_who_connects_and_says_nothing_keeps_no_probe_waiting(database, start_worker):
    worker = start_worker("-c", "1", "--metrics-port", "0")
    host, port_number = re.search(r"//([^:/]+):(\d+)", url_of(worker)).groups()
    silent = [socket.create_connection((host, int(port_number))) for _ in range(20)]
    with urllib.request.urlopen(f"{url_of(worker)}/health", timeout=3) as answer:  # each of them would cost 5 s
        assert answer.status == 200
    for each in silent:
        each.close()
