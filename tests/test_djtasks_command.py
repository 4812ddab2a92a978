"""`manage.py djtasks`: what it prints, of whatever broker."""

import argparse
import json
import re
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from djtasks import encoding, restraint, shared_task
from djtasks.brokers import get_broker
from djtasks.exceptions import BrokerUnavailable
from djtasks.management.commands.djtasks import Command
from djtasks.message import Delivery, Message, new_id
from djtasks.models import Job, Limit, PeriodicTask, Queue, Worker
from djtasks.testing import run_jobs
from djtasks.worker.ledger import Ledger
from tests import tasks
from tests.site import Site

pytestmark = pytest.mark.every_broker


def djtasks(*arguments, **options):
    """What the command prints, as lines."""
    out = StringIO()
    call_command("djtasks", *arguments, stdout=out, **options)
    return out.getvalue().splitlines()


def as_json(*arguments):
    return json.loads("\n".join(djtasks(*arguments, "--json")))


def message(**fields):
    return Message(**{"id": new_id(), "task": "shop.tasks.export", "queue": "mail", **fields})


def enqueue(*messages):
    get_broker().enqueue(messages)
    return [each.id for each in messages]


def live_worker(queues=None, but=(), **columns):
    text = Worker.queues_as_text(queues, but)
    return Worker.objects.create(
        pk=new_id()[-32:], hostname="w", pid=1, queues=text, pool="solo", concurrency=1, **columns
    )


def cells(line):
    return [cell for each in line.split("  ") if (cell := each.strip())]


def test_each_queue_has_a_line_with_its_sizes(broker):
    enqueue(message(), message(), message(countdown=60), message(queue="a b"))
    broker.claim("mail", limit=1, worker="w.1")
    broker.pause("a b")
    live_worker()
    assert [cells(line) for line in djtasks("queues")] == [
        ["queue", "ready", "scheduled", "running", "paused", "workers"],
        ["a b", "1", "0", "0", "yes", "1"],
        ["mail", "1", "1", "1", "no", "1"],
    ]


def test_the_columns_are_aligned_whatever_the_names(broker):
    enqueue(*(message(queue=name) for name in ("x", "x" * 30, "e\u0301te\u0301", "日本語")))
    head, *lines = djtasks("queues")
    before = {line[: line.index(" 1 ")] for line in lines}
    columns = {len(text) - text.count("\u0301") + sum(map(text.count, "日本語")) for text in before}
    assert columns == {head.index(" ready") + len(" read") - 1}


def test_where_there_is_no_queue_it_says_so(broker):
    assert djtasks("queues") == ["No queue holds a job, and none is paused."]
    assert as_json("queues") == []


def test_queues_are_printed_for_programs_too(broker):
    enqueue(message(), message(countdown=60))
    size = {"queue": "mail", "ready": 1, "scheduled": 1, "running": 0, "paused": False, "workers": 0}
    size |= {"more_ready": False, "more_scheduled": False}
    size |= {"default_priority": None, "aging": None, "rate_limit": None, "max_concurrency": None}
    size |= {"is_unserved": True, "has_senders": True}
    assert as_json("queues") == [size]
    assert json.loads("\n".join(djtasks("queues", json=True))) == [size]


def test_a_queue_with_jobs_that_no_live_worker_serves_is_marked(broker):
    enqueue(message(), message(queue="pdf"), message(queue="secret", countdown=60))
    live_worker(["mail"])
    live_worker(but=["pdf", "secret"])
    live_worker(["pdf"], stopped_at=datetime.now(UTC))
    live_worker(["pdf"], lost_at=datetime.now(UTC))
    live_worker(["pdf"], beat_at=datetime.now(UTC) - timedelta(hours=1))
    lines = {row[0]: row for row in map(cells, djtasks("queues"))}
    assert lines["queue"][-1] == "notes"
    assert lines["mail"] == ["mail", "1", "0", "0", "no", "2"]
    assert lines["pdf"] == ["pdf", "1", "0", "0", "no", "0", "No live worker serves it."]
    assert lines["secret"][-1] == "No live worker serves it."
    assert {each["queue"]: each["is_unserved"] for each in as_json("queues")} == {
        "mail": False,
        "pdf": True,
        "secret": True,
    }


def test_a_worker_that_serves_a_queue_nobody_sends_to_is_marked(broker, settings, own_tasks):
    shared_task(name="declared", queue="of a task")(lambda: None)
    settings.DJTASKS = {**settings.DJTASKS, "TASK_ROUTES": {"x": "of a route"}}
    PeriodicTask.objects.create(name="nightly", task="x", schedule="3600", queue="of a schedule")
    enqueue(message(queue="of a job"))
    served = ["emial", "default", "of a task", "of a route", "of a schedule", "of a job"]
    live_worker(served)
    lines = {row[0]: row for row in map(cells, djtasks("queues")[1:])}
    assert sorted(lines) == sorted(served)
    note = "A worker serves it, but nobody is known to send to it."
    assert [name for name, row in lines.items() if row[-1] == note] == ["emial"]
    assert [each["queue"] for each in as_json("queues") if not each["has_senders"]] == ["emial"]


def test_the_limits_of_a_queue_are_set_and_told(broker):
    told = djtasks("set", "mail", "--rate-limit", "10/m", "--max-concurrency", "3")
    assert told == ["mail is set: rate_limit 10/m, max_concurrency 3."]
    head, line = djtasks("queues")
    assert head.split()[-4:] == ["rate", "at", "a", "time"]
    assert cells(line)[-2:] == ["10/m", "3"]
    assert [(each["rate_limit"], each["max_concurrency"]) for each in as_json("queues")] == [("10/m", 3)]
    assert [(each["key"], each["rate"], each["places"]) for each in as_json("rate")] == [("queue:mail", "10/m", 3)]
    djtasks("set", "mail", "--rate-limit", "none", "--max-concurrency", "none")
    assert Queue.objects.limits() == {}


def test_how_a_queue_is_set_is_told(broker):
    djtasks("set", "mail", "--default-priority", "-5", "--aging", "60")
    assert list(map(cells, djtasks("queues"))) == [
        ["queue", "ready", "scheduled", "running", "paused", "workers", "priority", "aging"],
        ["mail", "0", "0", "0", "no", "0", "-5", "60 s"],
    ]
    assert djtasks("set", "mail", "--aging", "none") == ["mail is set: aging none."]
    row = Queue.objects.get(name="mail")
    assert (row.default_priority, row.aging) == (-5, None)
    broker.enqueue([message()])
    assert [each.message.priority for each in broker.peek("mail")] == [-5]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "Say what to set: --default-priority, --aging."),
        (("--default-priority", "101"), "priority must be a whole number from -100 to 100"),
        (("--default-priority", "high"), "--default-priority takes a number, or none, not 'high'."),
        (("--aging", "0"), "aging must be a number of seconds from 0.1 to 100 years"),
        (("--aging", "nan"), "aging must be a number of seconds"),
    ],
)
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_queue_is_not_set_to_what_makes_no_sense(database, arguments, why):
    with pytest.raises(CommandError, match=why):
        djtasks("set", "mail", *arguments)
    assert not Queue.objects.exists()


def test_a_queue_is_paused_and_resumed(broker):
    enqueue(message())
    assert djtasks("pause", "mail") == ["mail is paused. What runs goes on."]
    assert re.fullmatch(
        r"Paused by \S+, (just now|\d+ s ago)\. No live worker serves it\.", cells(djtasks("queues")[1])[-1]
    )
    assert broker.claim("mail", limit=1, worker="w.1") == []
    assert as_json("resume", "mail") == {"queue": "mail", "paused": False}
    assert len(broker.claim("mail", limit=1, worker="w.1")) == 1


def test_a_purge_removes_what_waits_and_says_how_much(broker):
    enqueue(message(), message(countdown=60), message(queue="pdf"))
    assert djtasks("purge", "mail", "--no-input") == ["2 job(s) were removed from mail."]
    assert as_json("purge", "pdf", "--no-input") == {"queue": "pdf", "purged": 1}
    assert broker.sizes() == {}


@pytest.mark.parametrize(("answer", "left"), [("y", 0), ("", 1), ("no", 1)])
def test_a_purge_asks_before(broker, monkeypatch, answer, left):
    enqueue(message())
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or answer)
    with nullcontext() if answer == "y" else pytest.raises(CommandError, match=r"^Nothing was removed\.$"):
        djtasks("purge", "mail")
    assert len(broker.peek("mail")) == left
    assert asked == ["Remove 1 job(s) that wait in 'mail', as if they had never been sent? [y/N] "]


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_purge_that_cannot_ask_removes_nothing(broker, more):
    enqueue(message())
    with pytest.raises(CommandError, match="add --no-input"):
        djtasks("purge", "mail", *more)
    assert len(broker.peek("mail")) == 1


def test_jobs_are_moved_to_another_queue(broker):
    enqueue(message(task="a"), message(task="b"), message(task="b"), message(task="b", countdown=60))
    assert djtasks("move", "mail", "slow", "--task", "b", "--limit", "2") == ["2 job(s) were moved from mail to slow."]
    assert [each.message.task for each in broker.peek("slow")] == ["b", "b"]
    assert as_json("move", "mail", "slow") == {"from": "mail", "to": "slow", "moved": 2}
    assert broker.sizes()["slow"].ready + broker.sizes()["slow"].scheduled == 4


def test_a_job_that_waits_by_its_row_is_moved_with_its_row(broker, settings):
    """As a retry does, whose row is there though its queue may be elsewhere."""
    (pk,) = enqueue(message())
    Job.objects.update_or_create(pk=pk, defaults={"task": "shop.tasks.export", "queue": "mail", "state": "PENDING"})
    djtasks("move", "mail", "slow")
    assert Job.objects.get(pk=pk).queue == "slow"


@pytest.mark.parametrize(
    "arguments",
    [("pause", "x" * 129), ("move", "mail", "mail"), ("move", "mail", ""), ("move", "mail", "x", "--limit", "0")],
)
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_cannot_be_done_to_a_queue_is_said(database, arguments):
    with pytest.raises(CommandError, match=r"printable characters|already|no whole number above 0"):
        djtasks(*arguments)


def test_jobs_are_printed_in_the_order_in_which_they_will_run(broker):
    plain, other, urgent = enqueue(message(), message(), message(priority=5))
    enqueue(message(queue="pdf"))
    title, head, *lines = djtasks("inspect", "waiting", "mail")
    assert title == "1-3 of 3 ready in 'mail'"
    assert cells(head) == ["#", "id", "task", "priority", "enqueued"]
    assert [cells(line)[:4] for line in lines] == [
        ["1", urgent, "shop.tasks.export", "5"],
        ["2", plain, "shop.tasks.export", "0"],
        ["3", other, "shop.tasks.export", "0"],
    ]
    assert [each.id for each in broker.claim("mail", limit=9, worker="w.1")] == [urgent, plain, other]


def test_a_part_says_which_part_it_is(broker):
    ids = enqueue(*(message() for _ in range(5)))
    title, _head, *lines = djtasks("inspect", "waiting", "mail", "--offset", "1", "--limit", "2")
    assert title == "2-3 of 5 ready in 'mail'"
    assert [cells(line)[:2] for line in lines] == [["2", ids[1]], ["3", ids[2]]]


def test_what_waits_for_its_time_tells_when_it_is_due(broker):
    later, sooner = enqueue(message(countdown=7300), message(countdown=3700))
    title, head, *lines = djtasks("inspect", "scheduled", "mail")
    assert title == "1-2 of 2 scheduled in 'mail'"
    assert cells(head)[4:] == ["enqueued", "due"]
    assert [cells(line)[1] for line in lines] == [sooner, later]
    assert [cells(line)[5].partition(" ")[2] for line in lines] == ["(in 1 h)", "(in 2 h)"]


def test_times_are_exact_and_tell_their_age(broker, monkeypatch):
    moment = datetime.now(UTC) - timedelta(minutes=3)
    delivery = Delivery(message(), "", 0, created_at=moment)
    monkeypatch.setattr(type(broker), "peek", lambda self, *args, **kwargs: [delivery])
    assert f"{moment:%Y-%m-%dT%H:%M:%S}+00:00 (3 min ago)" in djtasks("inspect", "waiting", "mail")[2]


def test_earlier_claims_losses_and_cancellations_are_told(broker):
    enqueue(message())
    broker.release(broker.claim("mail", limit=1, worker="w.1"), count="losses")
    broker.cancel(enqueue(message()))
    _title, head, *lines = djtasks("inspect", "waiting", "mail")
    assert cells(head)[-1] == "so far"
    assert [cells(line)[-1] for line in lines] == ["revoked", "claims 1, losses 1"]


def test_arguments_are_printed_masked_if_they_are_asked_for(broker):
    args, kwargs = encoding.encode_arguments([7], {"to": "Ann\n", "password": "abc"})
    enqueue(message(args=args, kwargs=kwargs))
    assert "Ann" not in "\n".join(djtasks("inspect", "waiting", "mail"))
    assert cells(djtasks("inspect", "waiting", "mail", "--args")[2])[-1] == "7, to='Ann\\n', password=********"


def test_arguments_are_masked_as_their_task_says(broker, own_tasks):
    @shared_task(name="shop.pay", sensitive_arguments=["card"])
    def pay(order, card): ...

    enqueue(message(task="shop.pay", args='[7, "4242"]'))
    assert cells(djtasks("inspect", "waiting", "mail", "--args")[2])[-1] == "7, ********"
    assert as_json("inspect", "waiting", "mail", "--args")[0]["args"] == [7, "********"]


@pytest.mark.parametrize("args", ["no JSON", "no JSON, password=abc", '["' + "x" * 5000 + '"]'])
def test_arguments_that_are_long_or_cannot_be_read_are_cut_or_masked(broker, args):
    enqueue(message(args=args))
    shown = cells(djtasks("inspect", "waiting", "mail", "--args")[2])[-1]
    assert "abc" not in shown
    assert 0 < len(shown) <= 203
    as_json("inspect", "waiting", "mail", "--args")


def test_jobs_are_printed_for_programs_too(broker):
    args, kwargs = encoding.encode_arguments([datetime(2026, 1, 2, tzinfo=UTC), {1: {2}}], {"token": "abc"})
    (pk,) = enqueue(message(priority=3, countdown=60, expires_in=120.0, args=args, kwargs=kwargs))
    (job,) = as_json("inspect", "scheduled", "mail", "--args")
    enqueued, due, expires = (datetime.fromisoformat(job.pop(name)) for name in ("enqueued_at", "eta", "expires_at"))
    assert abs(due - enqueued - timedelta(seconds=60)) < timedelta(seconds=1)
    assert abs(expires - enqueued - timedelta(seconds=120)) < timedelta(seconds=1)
    assert job == {
        "id": pk,
        "task": "shop.tasks.export",
        "queue": "mail",
        "priority": 3,
        "claims": 0,
        "losses": 0,
        "revoked": False,
        "args": ["2026-01-02 00:00:00+00:00", {"1": [2]}],
        "kwargs": {"token": "********"},
    }


def test_arguments_are_left_out_for_programs_unless_they_are_asked_for(broker):
    enqueue(message())
    (job,) = as_json("inspect", "waiting", "mail")
    assert {"args", "kwargs"}.isdisjoint(job)


def test_where_nothing_waits_it_says_so(broker):
    enqueue(message())
    assert djtasks("inspect", "waiting", "nobody") == ["Nothing is ready in 'nobody'."]
    assert djtasks("inspect", "scheduled", "mail") == ["Nothing is scheduled in 'mail'."]
    beyond = djtasks("inspect", "waiting", "mail", "--offset", "7")
    assert beyond == ["Nothing is ready in 'mail' after the first 7; there are 1 in all."]
    assert as_json("inspect", "waiting", "nobody") == []


def test_a_paused_queue_is_said_to_be_paused(broker):
    enqueue(message())
    broker.pause("mail")
    assert djtasks("inspect", "waiting", "mail")[0] == "1-1 of 1 ready in 'mail', which is paused"


@pytest.mark.parametrize("name", ["a/b", "..", "-x", "<b>", "two  spaces", "日本語"])
def test_a_queue_may_have_any_name(broker, name):
    (pk,) = enqueue(message(queue=name))
    (job,) = json.loads("\n".join(djtasks("inspect", "waiting", "--json", "--", name)))
    assert (job["id"], job["queue"]) == (pk, name)


def test_nothing_that_a_terminal_would_obey_is_printed(broker, monkeypatch):
    delivery = Delivery(message(task="\x1b[2Jevil"), "", 0)
    monkeypatch.setattr(type(broker), "peek", lambda self, *args, **kwargs: [delivery])
    assert "\\x1b[2Jevil" in djtasks("inspect", "waiting", "mail")[2]
    assert djtasks("inspect", "waiting", "a\x1bb")[0].endswith("in 'a\\x1bb'")


def test_an_unreadable_message_is_marked(broker, monkeypatch):
    delivery = Delivery(Message(id="x", task=""), "", 0, malformed="no JSON: secret")
    monkeypatch.setattr(type(broker), "peek", lambda self, *args, **kwargs: [delivery])
    lines = djtasks("inspect", "waiting", "mail", "--args")
    assert "unreadable" in lines[2]
    assert "secret" not in "\n".join(lines)


@pytest.mark.parametrize("arguments", [("--limit", "0"), ("--limit", "x"), ("--offset", "-1"), ("--offset", "9" * 30)])
def test_bad_numbers_are_refused_with_their_name(arguments):
    with pytest.raises(CommandError, match=f"argument {arguments[0]}: .* (between|number)"):
        djtasks("inspect", "waiting", "mail", *arguments)


@pytest.mark.parametrize("arguments", [(), ("inspect",)])
def test_without_a_subcommand_it_prints_its_help(arguments):
    text = "\n".join(djtasks(*arguments))
    assert "usage: " in text
    assert all(word in text for word in (("waiting", "scheduled") if arguments else ("queues", "inspect")))


def test_each_subcommand_says_what_it_does_in_its_help():
    parsers = [Command().create_parser("manage.py", "djtasks")]
    while parsers:
        parser = parsers.pop()
        assert parser.description, parser.prog
        found = [each.choices for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
        parsers += [each for choices in found for each in choices.values()]


def test_options_of_django_may_stand_behind_a_subcommand(database):
    assert djtasks("queues", "--settings", "tests.settings", "-v", "0", "--no-color") == djtasks("queues")


def test_prune_says_in_json_how_many_it_has_deleted(database):
    assert as_json("prune") == {"deleted": 0, "expires_after": 7 * 86400}


def test_the_help_has_examples_in_lines_of_their_own():
    lines = djtasks()
    assert "examples:" in lines
    assert any(line.startswith("  manage.py djtasks inspect waiting mail  ") for line in lines)


@pytest.mark.parametrize("arguments", [("queues",), ("inspect", "waiting", "mail")])
def test_a_broker_that_does_not_answer_is_an_error_in_so_many_words(monkeypatch, arguments):
    def fail():
        raise BrokerUnavailable("The server does not answer.")

    monkeypatch.setattr("djtasks.management.commands.djtasks.get_broker", fail)
    monkeypatch.setattr("djtasks.queues.get_broker", fail)
    with pytest.raises(CommandError, match=r"^The server does not answer\.$"):
        djtasks(*arguments)


def test_a_wrong_setting_is_an_error_in_so_many_words(settings):
    settings.DJTASKS = {"TEST_BROKER_URL": "carrier-pigeon://"}
    with pytest.raises(CommandError, match="carrier-pigeon"):
        djtasks("queues")


def test_it_works_on_a_site_without_the_admin(tmp_path):
    site = Site(tmp_path)
    site.settings()
    assert site.manage("migrate", "-v0").returncode == 0
    finished = site.manage("djtasks", "queues")
    assert (finished.returncode, finished.stdout) == (0, "No queue holds a job, and none is paused.\n")


def test_missing_tables_are_an_error_that_says_what_to_do(tmp_path):
    site = Site(tmp_path)
    site.settings()
    finished = site.manage("djtasks", "queues")
    assert finished.returncode == 1
    assert "manage.py migrate djtasks" in finished.stderr
    assert "Traceback" not in finished.stderr


# Limits


@pytest.fixture
def limited(own_tasks, database):
    @shared_task(name="shop.tasks.sync", rate_limit="10/m", max_concurrency=3)
    def sync():
        pass

    Limit.objects.all().declare(restraint.declared([sync]))
    return sync


def test_the_limits_are_listed_and_a_rate_can_be_changed_and_given_back_to_the_code(limited):
    assert djtasks("rate")[1].split() == ["shop.tasks.sync", "10/m", "10/m", "3", "0", "0", "-"]
    assert djtasks("rate", "shop.tasks.sync", "5/h") == [
        "The rate of shop.tasks.sync is 5/h. Workers heed it within seconds."
    ]
    (told,) = as_json("rate")
    assert (told["in_force"], told["declared"], told["rate"], told["places"]) == ("5/h", "10/m", "5/h", 3)
    djtasks("rate", "shop.tasks.sync", "none")
    assert as_json("rate", "shop.tasks.sync")[0]["in_force"] == ""
    djtasks("rate", "shop.tasks.sync", "code")
    assert as_json("rate", "shop.tasks.sync")[0]["in_force"] == "10/m"


def test_what_waits_for_a_rate_is_counted(limited):
    sent = enqueue(*(message(task="shop.tasks.sync") for _ in range(3)))
    broker = get_broker()
    broker.defer(broker.claim("mail", limit=3, worker="w"), "shop.tasks.sync", 60.0, ahead=0.0, most=1)
    assert as_json("rate")[0]["waiting"] == 2
    assert len(broker.waits(sent)) == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("shop.tasks.sync", "10 a minute"), "A rate is written as '10/s'"),
        (("shop.tasks.sync", "0/s"), "A rate is written as '10/s'"),
        (("shop.tasks.snyc", "10/m"), "No task 'shop.tasks.snyc' is known here. Did you mean 'shop.tasks.sync'?"),
    ],
)
def test_a_rate_that_is_none_and_a_task_that_nobody_knows_are_errors(limited, arguments, told):
    with pytest.raises(CommandError, match=re.escape(told)):
        djtasks("rate", *arguments)


def test_without_limits_the_command_says_where_they_come_from(database):
    assert djtasks("rate") == ["No limit is known. Workers tell those that stand in the code when they start."]


# Sending, cancelling, and what has come of it


def test_call_sends_a_job_and_prints_its_id(database):
    (job_id,) = djtasks("call", "tests.tasks.add", "-a", "[1]", "-k", '{"y": 2}', "--queue", "sums")
    (delivery,) = get_broker().peek("sums")
    assert (delivery.id, delivery.message.args, delivery.message.kwargs) == (job_id, "[1]", '{"y":2}')


def test_call_takes_times_and_priority_and_tasks_that_are_known_elsewhere(database):
    eta = "2031-01-31T12:00:00+01:00"
    djtasks("call", "elsewhere.mail", "--eta", eta, "--priority", "7", "--queue", "mail")
    djtasks("call", "elsewhere.mail", "--countdown", "3600", "--queue", "mail")
    soon, later = get_broker().peek("mail", scheduled=True)
    assert (later.message.priority, later.message.eta) == (7, datetime.fromisoformat(eta))
    assert soon.message.eta < datetime.now(UTC) + timedelta(hours=2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-a", "1"], "-a must be a JSON list"),
        (["-k", "[]"], "-k must be a JSON object"),
        (["-a", "no"], "is no JSON"),
        (["-a", "[1, 2, 3]"], "too many positional arguments"),
    ],
)
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_call_says_what_is_wrong_with_the_arguments(database, arguments, said):
    with pytest.raises(CommandError, match=said):
        djtasks("call", "tests.tasks.add", *arguments)
    assert not Job.objects.exists()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_call_of_a_task_that_is_all_but_named_like_another_asks_whether_that_is_meant(database):
    with pytest.raises(CommandError, match=r"No task 'tests\.tasks\.ad' .* Did you mean 'tests\.tasks\.add'\?"):
        djtasks("call", "tests.tasks.ad", "-a", "[1, 2]")
    assert not Job.objects.exists()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_call_waits_for_the_result_if_asked_to(database, start_worker):
    start_worker("-c", "1")
    assert djtasks("call", "tests.tasks.add", "-a", "[20, 22]", "--wait") == ["SUCCESS: 42"]
    with pytest.raises(CommandError, match="has not ended within 0"):
        djtasks("call", "tests.tasks.sleep", "-a", "[5]", "--wait", "0.1")
    with pytest.raises(SystemExit, match="1"):
        djtasks("call", "tests.tasks.fail", "--wait")


def test_result_tells_what_has_come_of_a_job(database):
    good, bad = tasks.add.delay(1, 2), tasks.fail.delay()
    run_jobs()
    assert djtasks("result", good.id) == ["SUCCESS: 3"]
    assert djtasks("result", bad.id)[-1] == "ValueError: ('broken', 42)"
    found = as_json("result", bad.id)
    assert (found["state"], found["result"], found["error"]) == ("FAILURE", None, "ValueError('broken', 42)")
    with pytest.raises(CommandError, match="Nobody knows this id"):
        djtasks("result", "unknown")


def test_result_tells_why_a_job_has_not_ended_or_what_it_says_of_itself(database, broker):
    job = tasks.add.delay(1, 2)
    assert djtasks("result", job.id)[0].startswith("PENDING: ")
    (delivery,) = broker.claim("default", limit=1, worker="w.1")
    ledger = Ledger(broker, "w.1")
    ledger.begin(delivery)
    ledger.report(delivery, "PROGRESS", '{"done": 1}')
    ledger.commit()
    assert djtasks("result", job.id) == ["PROGRESS: {'done': 1}"]
    found = as_json("result", job.id)
    assert (found["state"], found["result"], found["progress"]) == ("PROGRESS", None, {"done": 1})


def test_call_says_how_arguments_are_given(database):
    with pytest.raises(CommandError) as caught:
        djtasks("call", "tests.tasks.add", "2", "it's")
    assert str(caught.value) == """Arguments are given as JSON: djtasks call tests.tasks.add -a '[2, "it'"'"'s"]'"""


def test_revoke_cancels_what_waits(database):
    ended, waits = tasks.noop.delay(), None
    run_jobs()
    waits = tasks.noop.delay()
    assert djtasks("revoke", waits.id, ended.id) == ["1 job(s) will not run any more. 1 had ended before."]
    run_jobs()
    assert waits.state == "REVOKED"
    said = "0 job(s) will not run any more. Nobody knows unknown: a wrong id, or it ended and was pruned."
    assert djtasks("revoke", "unknown") == [said]
    assert as_json("revoke", "nobodys", ended.id) == {
        "revoked": [],
        "ended_before": [ended.id],
        "unknown": ["nobodys"],
    }
    assert djtasks("revoke", "unknown") == [said]  # that it was asked for before makes no job of it
    with pytest.raises(CommandError, match="no signal 'SIGWHAT'"):
        djtasks("revoke", waits.id, "--terminate", "--signal", "SIGWHAT")


# Workers


def test_status_lists_the_workers_that_live(database):
    with pytest.raises(SystemExit):
        djtasks("status")
    live_worker(queues=["mail"])
    head, line = djtasks("status")
    assert cells(head)[:4] == ["worker", "process", "pool", "jobs at a time"]
    assert cells(line)[:5] == ["w", "1", "solo", "1", "mail"]
    assert as_json("status")[0]["queues"] == ["mail"]


def test_inspect_tells_what_runs_who_knows_what_and_what_was_done(database):
    worker = live_worker(tasks='["shop.tasks.export", "tests.tasks.add"]', processed=7, failed=1)
    Job.objects.create(
        id="x", task="shop.tasks.export", queue="mail", state="STARTED", worker=f"{worker.pk}.1",
        started_at=datetime.now(UTC),
    )  # fmt: skip
    assert cells(djtasks("inspect", "active")[1])[:4] == ["x", "shop.tasks.export", "mail", "STARTED"]
    assert as_json("inspect", "active")[0]["worker"] == "w"
    known = {line[0]: line[1:] for line in map(cells, djtasks("inspect", "registered"))}
    assert known["shop.tasks.export"] == ["no", "w"]
    assert known["tests.tasks.add"] == ["yes", "w"]
    assert known["tests.tasks.noop"] == ["yes", "nobody"]
    assert cells(djtasks("inspect", "stats")[1])[:5] == ["w", "1", "7", "1", "1"]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_inspect_says_so_if_there_is_nothing(database):
    assert djtasks("inspect", "active") == ["Nothing runs."]
    assert djtasks("inspect", "stats") == ["No worker lives. Start one: manage.py runworker"]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["call", "tests.tasks.noop", "--wait", "nan"], "is no number of seconds"),
        (["call", "tests.tasks.noop", "--countdown", "inf"], "is no number of seconds"),
        (["call", "tests.tasks.noop", "-a", "[" * 5000], "is no JSON"),
        (["inspect", "waiting", "a\udcff"], "No queue is named"),
    ],
)
def test_hostile_arguments_are_told_what_is_wrong_with_them(database, arguments, said):
    with pytest.raises(CommandError, match=said):
        djtasks(*arguments)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_retry_tells_of_ids_of_which_nobody_knows(database):
    said = "0 job(s) will run once more. 1 id(s) are of no job that has ended and is kept."
    assert djtasks("retry", "nobodys") == [said]
