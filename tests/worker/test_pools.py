"""How many processes run jobs."""

import os

import pytest

from djtasks.exceptions import ImproperlyConfigured
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
