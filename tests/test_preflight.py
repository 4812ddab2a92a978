"""`manage.py djtasks preflight`: what waits that the code here cannot run."""

import json
from dataclasses import dataclass
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import transaction

from djtasks import chain, chord, registry, shared_task
from djtasks import preflight as looking
from djtasks.brokers import get_broker
from djtasks.exceptions import BrokerUnavailable
from djtasks.message import Message, new_id
from djtasks.models import Job, PeriodicTask
from djtasks.preflight import preflight
from tests.canvas.tasks import errback_of_request, identity, total
from tests.tasks import add

pytestmark = pytest.mark.every_broker


@pytest.fixture
def old(own_tasks):
    """Tasks of the code that runs now; `deploy` replaces them by the new."""

    @shared_task(name="shop.gone")
    def gone(order):
        pass

    @shared_task(name="shop.export")
    def export(order, path="a"):
        pass

    return gone, export


def deploy():
    @dataclass
    class Order:
        number: int

    registry.unregister("shop.gone")
    registry.unregister("shop.export")

    @shared_task(name="shop.export")
    def export(order: Order, format):
        pass


def found(**options):
    return {(each.kind, each.task): each for each in preflight(**options).findings}


def command(*arguments):
    out = StringIO()
    code = 0
    try:
        call_command("djtasks", "preflight", *arguments, stdout=out, stderr=StringIO())
    except SystemExit as ended:
        code = ended.code
    return code, out.getvalue()


def test_what_the_code_can_run_is_fine(broker):
    add.delay(1, 2)
    add.apply_async((1, 2), countdown=60)
    PeriodicTask.objects.create(name="nightly", task=add.name, schedule="3600", args="[1,2]")
    chord([identity.s(1), identity.s(2)], total.s()).apply_async()
    (identity.s(1) | identity.s()).apply_async(link_error=errback_of_request.s("x"))
    result = preflight()
    assert result.findings == []
    assert (result.jobs, result.schedules) == (6, 1)
    assert command() == (
        0,
        "6 job(s) that wait and 1 schedule(s) were looked at. The code here can run all of them.\n",
    )


def test_tasks_that_are_gone_and_arguments_that_do_not_fit_are_found_by_task_with_samples(broker, old):
    gone, export = old
    ids = [gone.delay(1).id, gone.apply_async((2,), countdown=60).id]
    exports = [export.delay(number).id for number in range(7)]
    fits = export.delay({"number": 1}, "csv")
    wrong = export.delay({"nummer": 1}, "csv")
    deploy()
    result = found()
    assert set(result) == {("unknown_task", "shop.gone"), ("arguments", "shop.export")}
    assert sorted(result["unknown_task", "shop.gone"].samples) == sorted(ids)
    by_count = [each for each in preflight().findings if each.task == "shop.export"]
    assert [(each.count, len(each.samples)) for each in by_count] == [(7, 5), (1, 1)]
    assert set(by_count[0].samples) <= set(exports)
    assert "missing a required argument: 'format'" in by_count[0].problem
    assert by_count[1].samples == [wrong.id]
    assert fits.id not in {sample for each in preflight().findings for sample in each.samples}


def test_schedules_are_looked_at_but_those_that_rest(broker, old):
    for name, task, args, enabled in (
        ("gone", "shop.gone", "[1]", True),
        ("unfit", "shop.export", "[]", True),
        ("rests", "shop.gone", "[1]", False),
    ):
        PeriodicTask.objects.create(name=name, task=task, schedule="3600", args=args, enabled=enabled)
    deploy()
    result = found()
    assert {key: each.samples for key, each in result.items()} == {
        ("schedule_unknown_task", "shop.gone"): ["gone"],
        ("schedule_arguments", "shop.export"): ["unfit"],
    }


def test_what_follows_is_looked_at_too(broker, old):
    gone, _export = old
    first = chain(identity.s(1), identity.s(), gone.s()).apply_async()
    chord([identity.s(1)], gone.s()).apply_async()
    identity.apply_async((1,), link=gone.s())
    deploy()
    result = found()
    assert set(result) == {("later_unknown_task", "shop.gone"), ("unknown_task", "shop.gone")}
    assert first.parent.parent.id in result["later_unknown_task", "shop.gone"].samples
    assert result["unknown_task", "shop.gone"].count == 1  # the body


@pytest.mark.parametrize("database", ["redis"], indirect=True)
def test_what_stands_in_the_outbox_is_looked_at_too(database, old, monkeypatch):
    def enqueue(messages):
        raise BrokerUnavailable("Redis does not answer.")

    with monkeypatch.context() as patch:
        patch.setattr(get_broker(), "enqueue", enqueue)
        with transaction.atomic(using=database):
            old[0].enqueue_many([(1,), (2,)])
    deploy()
    assert found()["unknown_task", "shop.gone"].count == 2


def test_what_cannot_be_read_is_found(broker):
    broken = new_id()
    broker.enqueue([Message(id=broken, task=add.name, args='[1, {"$": "nonsense"}]')])
    assert found()["unreadable", add.name].samples == [broken]


def test_a_limit_ends_the_look_and_says_so(broker, monkeypatch):
    monkeypatch.setattr(looking, "PORTION", 2)
    add.enqueue_many([(1, 2)] * 5)
    told = []
    result = preflight(limit=3, tell=told.append)
    assert (result.jobs, result.is_partial) == (3, True)
    assert told == sorted(told)
    assert told[-1:] <= [3]
    assert "and there are more (--limit)" in command("--limit", "3")[1]


def test_nothing_is_changed(broker, old):
    old[0].delay(1)
    deploy()
    before = broker.sizes()
    rows = list(Job.objects.values())
    preflight()
    assert broker.sizes() == before
    assert list(Job.objects.values()) == rows


def test_the_command_ends_with_1_and_says_what_to_do(broker, old):
    job_id = old[0].delay(1).id
    deploy()
    code, text = command()
    assert code == 1
    assert text.splitlines()[:4] == [
        "1 job(s) that wait and 0 schedule(s) were looked at.",
        "shop.gone is not registered any more: 1",
        "    No task of this name is registered.",
        f"    {job_id}",
    ]
    code, text = command("--json")
    assert code == 1
    assert json.loads(text) == {
        "fine": False,
        "jobs": 1,
        "schedules": 0,
        "partial": False,
        "findings": [
            {
                "kind": "unknown_task",
                "task": "shop.gone",
                "problem": "No task of this name is registered.",
                "count": 1,
                "samples": [job_id],
            }
        ],
    }


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_a_model_quotes_of_a_password_is_masked(database, own_tasks):
    @dataclass
    class Login:
        password: str

        def __post_init__(self):
            raise ValueError(f"password is {self.password!r}")

    @shared_task(name="log_in")
    def log_in(login: Login):
        pass

    log_in.delay({"password": "hunter2"})
    (finding,) = preflight().findings
    assert finding.problem == "ValueError: ********"


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_nonsense_of_as_many_kinds_as_jobs_takes_no_more_room_than_some(database, monkeypatch):
    monkeypatch.setattr(looking, "MOST_FINDINGS", 3)
    get_broker().enqueue([Message(id=new_id(), task=f"gone{number}") for number in range(10)])
    assert sorted(each.count for each in preflight().findings) == [1, 1, 1, 7]
