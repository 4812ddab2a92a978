"""How many processes run jobs."""

import os

import pytest

from djtasks.exceptions import ImproperlyConfigured
from djtasks.management.commands.runworker import Command, worker_options
from djtasks.worker import pools


def test_prefork_is_the_default_with_a_process_for_each_usable_cpu():
    pool = pools.pool(None, None)
    assert (pool.name, pool.forks, pool.processes) == ("prefork", True, pools.usable_cpus())


def test_solo_is_one_run_in_this_process():
    assert pools.pool("solo", 8) == pools.Pool("solo", forks=False, processes=1)


def test_eventlet_is_an_error_that_names_what_to_use():
    with pytest.raises(ImproperlyConfigured, match="gevent or asyncio"):
        pools.pool("eventlet", None)


def test_a_containers_quota_is_kept_and_rounded_up(tmp_path, monkeypatch):
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(pools, "_CPU_MAX", str(quota))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    quota.write_text("150000 100000\n")
    assert pools.usable_cpus() == 2
    quota.write_text("max 100000\n")
    assert pools.usable_cpus() == 8
    quota.write_text("1600000 100000\n")
    assert pools.usable_cpus() == 8


def test_the_older_kind_of_quota_is_read_too(tmp_path, monkeypatch):
    files = [tmp_path / "quota", tmp_path / "period"]
    monkeypatch.setattr(pools, "_CPU_MAX", str(tmp_path / "missing"))
    monkeypatch.setattr(pools, "_CFS", tuple(map(str, files)))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    for file, text in zip(files, ("50000\n", "100000\n"), strict=True):
        file.write_text(text)
    assert pools.usable_cpus() == 1
    files[0].write_text("-1\n")
    assert pools.usable_cpus() == 8


@pytest.mark.parametrize(
    ("name", "concurrency", "processes", "runs"),
    [
        ("prefork", 3, 3, 1),
        ("prefork", "3", 3, 1),
        ("threads", 8, 1, 8),
        ("threads", "2x8", 2, 8),
        ("asyncio", " 1x500 ", 1, 500),
        ("asyncio", None, 1, pools.COROUTINES),
        ("gevent", None, 1, pools.COROUTINES),
        ("solo", "2x8", 1, 1),
    ],
)
def test_a_concurrency_is_so_many_jobs_in_so_many_processes(name, concurrency, processes, runs):
    pool = pools.pool(name, concurrency)
    assert (pool.name, pool.processes, pool.runs) == (name, processes, runs)


def test_threads_are_as_many_as_there_are_cpus_unless_somebody_says_otherwise():
    assert pools.pool("threads", None).runs == pools.usable_cpus()


@pytest.mark.parametrize("concurrency", [0, "0x4", "4x0", "x4", "4x", "-1", "2x2x2", "many", "1.5", ""])
def test_a_concurrency_that_makes_no_sense_is_named(concurrency):
    with pytest.raises(ImproperlyConfigured, match="2x8"):
        pools.pool("threads", concurrency)


def test_one_process_runs_no_more_than_its_slot_has_room_for():
    with pytest.raises(ImproperlyConfigured, match="too many"):
        pools.pool("asyncio", 1_000_000)


def test_prefork_with_several_jobs_in_a_process_is_told_of_threads():
    with pytest.raises(ImproperlyConfigured, match="-P threads"):
        pools.pool("prefork", "2x8")


def test_gevent_that_is_missing_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setattr(pools, "find_spec", lambda name: None)
    with pytest.raises(ImproperlyConfigured, match=r"pip install 'djtasks\[gevent\]'"):
        pools.pool("gevent", None)


def test_without_fork_the_default_is_threads_in_one_process(monkeypatch):
    monkeypatch.setattr(pools.sys, "platform", "win32")
    assert pools.pool(None, 8) == pools.Pool("threads", forks=False, processes=1, runs=8)
    assert not pools.pool("asyncio", None).forks
    for name, concurrency in (("prefork", 2), ("gevent", 2), ("threads", "2x8")):
        with pytest.raises(ImproperlyConfigured, match="cannot fork"):
            pools.pool(name, concurrency)


def test_children_are_new_programs_on_macos_and_with_gevent(monkeypatch):
    assert [pools.must_spawn(name) for name in ("prefork", "threads", "gevent")] == [False, False, True]
    monkeypatch.setattr(pools.sys, "platform", "darwin")
    assert pools.must_spawn("prefork")


@pytest.mark.parametrize(
    ("arguments", "setting", "ahead"),
    [([], "auto", None), ([], 3, 3), (["--prefetch-multiplier", "5"], 3, 5), (["--prefetch-multiplier", "0"], 3, 1)],
)
def test_what_is_claimed_ahead_is_fixed_by_the_option_or_else_the_setting(settings, arguments, setting, ahead):
    settings.DJTASKS = {**settings.DJTASKS, "WORKER_PREFETCH_MULTIPLIER": setting}
    given = vars(Command().create_parser("manage.py", "runworker").parse_args(arguments))
    assert worker_options(given).ahead == ahead


@pytest.mark.parametrize(
    ("arguments", "setting", "shape"),
    [
        ([], {}, "prefork"),
        ([], {"WORKER_POOL": "threads", "WORKER_CONCURRENCY": "2x8"}, "threads 2 8 16"),
        (["-P", "asyncio", "-c", "30"], {"WORKER_POOL": "threads", "WORKER_CONCURRENCY": "2x8"}, "asyncio 1 30 30"),
    ],
)
def test_pool_and_concurrency_are_those_of_the_options_or_else_the_settings(settings, arguments, setting, shape):
    settings.DJTASKS = {**settings.DJTASKS, **setting}
    options = worker_options(vars(Command().create_parser("manage.py", "runworker").parse_args(arguments)))
    assert f"{options.pool} {options.processes} {options.runs} {options.concurrency}".startswith(shape)


def test_solo_refuses_a_number_of_jobs_that_it_would_not_heed():
    given = vars(Command().create_parser("manage.py", "runworker").parse_args(["-P", "solo", "-c", "4"]))
    with pytest.raises(ImproperlyConfigured, match="-c 4 is for the other pools"):
        worker_options(given)
    for one in ("1", 1, "1x1"):
        assert worker_options({**given, "concurrency": one}).processes == 1
