"""One run of a job: how it may end, what is stored of it, and who is told."""

import asyncio
import logging
import sys
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from django.contrib.auth.models import Group
from django.utils import timezone, translation

from djtasks import AsyncResult, Task, current_task, publish, registry, shared_task, signals
from djtasks.exceptions import Ignore, LeaseLost, MaxRetriesExceededError, Reject, Retry, TaskRevokedError
from djtasks.failure import LONGEST_TEXT, call_of, failure_of
from djtasks.message import VERSION, Failure, Message, new_id
from djtasks.models import Job
from djtasks.result import exception_of
from djtasks.testing import run_jobs
from tests import tasks
from tests.executing import execute, execute_message

pytestmark = pytest.mark.usefixtures("own_tasks")


def message(task="tests.tasks.add", **fields):
    return Message(id=new_id(), task=task, **{"args": "[1,2]", **fields})


def failure(execution):
    assert execution.outcome.state == "FAILURE"
    return execution.outcome.failure


# Success


def test_a_success_carries_the_result_as_json_and_its_time():
    outcome = execute(tasks.add, 1, 2).outcome
    assert (outcome.state, outcome.result, outcome.failure, outcome.next) == ("SUCCESS", "3", None, None)
    assert 0 < outcome.seconds < 5
    assert not outcome.forget


def test_a_result_of_none_is_a_result():
    assert execute(tasks.noop).outcome.result == "null"


def test_an_async_task_is_run_to_its_end():
    @shared_task(bind=True)
    async def later(self, x):
        await asyncio.sleep(0)
        return [x, self.request.id, current_task.name]

    execution = execute(later, 5)
    assert execution.value == [5, execution.message.id, later.name]


@pytest.mark.django_db
def test_a_task_that_returns_the_handle_on_a_job_gives_it_as_a_tuple():
    @shared_task
    def forward():
        return AsyncResult("other")

    assert execute(forward).outcome.result == '[["other",null],null]'


def test_an_ignored_result_is_not_stored_and_a_plain_job_is_forgotten(tmp_path):
    outcome = execute(tasks.forgotten, str(tmp_path / "x"), ignore_result=True).outcome
    assert (outcome.result, outcome.forget) == (None, True)


@pytest.mark.parametrize("fields", [{"task_id": "own"}])
def test_a_job_with_an_id_of_its_own_is_kept_without_a_result(fields, tmp_path):
    outcome = execute(tasks.forgotten, str(tmp_path / "x"), ignore_result=True, **fields).outcome
    assert (outcome.result, outcome.forget) == (None, False)


@pytest.mark.parametrize("field", ["group_id", "unique_key"])
def test_a_job_that_others_count_on_is_kept_without_a_result(field):
    sent = message(options='{"ignore_result":true}', **{field: "x"})
    assert not execute_message(sent).outcome.forget


def test_an_unstorable_result_may_be_ignored():
    assert execute(tasks.unsendable, ignore_result=True).outcome.state == "SUCCESS"


# Failure


def test_a_failure_carries_class_text_arguments_and_traceback():
    found = failure(execute(tasks.fail, "broken"))
    assert (found.kind, found.message, found.arguments) == ("ValueError", "('broken', 42)", '["broken",42]')
    assert "in fail" in found.traceback
    assert "raise ValueError(text, 42)" in found.traceback


def test_the_traceback_begins_with_the_users_code():
    lines = failure(execute(tasks.fail)).traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "tests/tasks.py" in lines[1]


@pytest.mark.parametrize(
    ("how", "kind"), [("sys.exit", "SystemExit"), ("keyboard", "KeyboardInterrupt"), ("generator", "GeneratorExit")]
)
def test_leaving_python_ends_the_job_and_nothing_else(how, kind):
    assert failure(execute(tasks.leave, how)).kind == kind


def test_a_result_that_cannot_be_carried_fails_with_the_reason():
    found = failure(execute(tasks.unsendable))
    assert found.kind == "TypeError"
    assert found.message == "the result is of type object, which JSON cannot carry; pass plain data, or an id."


def test_a_result_too_large_for_a_message_fails_with_the_reason(settings):
    settings.DJTASKS = {"MAX_MESSAGE_BYTES": 100}

    @shared_task
    def large():
        return "x" * 100

    found = failure(execute(large))
    assert found.kind == "djtasks.exceptions.MessageTooLarge"
    assert "The result has 102 bytes; MAX_MESSAGE_BYTES is 100" in found.message


def test_an_exception_whose_text_cannot_be_had_is_stored_all_the_same(caplog):
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no text")

        __repr__ = __str__

    @shared_task
    def mute():
        raise Mute

    found = failure(execute(mute))
    assert found.kind.endswith("Mute")
    assert found.message == "<its __str__ raised RuntimeError>"
    assert "in mute" in found.traceback
    assert "<Mute; its __repr__ raised RuntimeError>" in caplog.text


def test_an_exceptions_arguments_that_cannot_be_carried_are_left_out():
    @shared_task
    def odd():
        raise ValueError(object())

    assert failure(execute(odd)).arguments is None


def test_a_stored_exception_is_shown_as_the_call_that_makes_it():
    assert call_of(failure_of(ValueError("boom", (1,)))) == "ValueError('boom', (1,))"
    assert call_of(failure_of(KeyError())) == "KeyError()"
    assert call_of(Failure("ValueError", "its text")) == "ValueError('its text')"
    assert call_of(Failure("ValueError", "its text", '{"no": "list"}')) == "ValueError('its text')"


def test_nul_bytes_and_lone_surrogates_are_stored_escaped(caplog):
    caplog.set_level(logging.CRITICAL, "djtasks")  # a report of this very test could not be written
    found = failure(execute(tasks.raise_text, "a\0b\ud800"))
    assert found.message == "a\\x00b\\ud800"
    for text in (found.message, found.traceback, found.arguments):
        assert "\0" not in text
        text.encode()


def test_huge_texts_are_cut_in_the_middle():
    found = failure(execute(tasks.raise_text, "x", 300_000))
    assert len(found.message) < LONGEST_TEXT + 100
    assert "characters left out" in found.message
    assert len(found.traceback) < LONGEST_TEXT + 100
    assert found.arguments is None


def test_an_endless_recursion_has_a_short_traceback():
    @shared_task
    def endless():
        return endless.run()

    found = failure(execute(endless))
    assert found.kind == "RecursionError"
    assert len(found.traceback) < 10_000


def test_a_cause_is_shown_in_the_traceback():
    @shared_task
    def chained():
        try:
            {}[1]
        except KeyError as error:
            raise ValueError("because") from error

    assert "KeyError: 1" in failure(execute(chained)).traceback


# Retries


def test_retry_makes_the_same_job_wait_once_more():
    @shared_task(bind=True)
    def again(self, x):
        raise self.retry(countdown=7)

    execution = execute(again, 5, headers={"h": 1}, priority=4, ignore_result=True, time_limit=9, queue="q")
    outcome, sent = execution.outcome, execution.message
    assert outcome.state == "RETRY"
    assert outcome.next == replace(sent, retries=1, countdown=7)
    assert outcome.failure is None


def test_retry_waits_for_the_default_delay():
    @shared_task(bind=True, default_retry_delay=42)
    def again(self):
        self.retry()

    assert execute(again).outcome.next.countdown == 42


def test_retry_may_replace_arguments_and_options():
    @shared_task(bind=True, typing=False)
    def again(self, *args, **kwargs):
        self.retry(
            args=(1, (2,)), kwargs={"a": 3}, countdown=timedelta(minutes=1), queue="other", priority=9, expires=60,
            headers={"new": 1}, time_limit=5, soft_time_limit=4, ignore_result=False,
        )  # fmt: skip

    sent = execute(again, 0, kwargs={"b": 0}, time_limit=100, shadow="kept").outcome.next
    assert (sent.args, sent.kwargs) == ('[1,{"$":"tuple","v":[2]}]', '{"a":3}')
    assert (sent.countdown, sent.queue, sent.priority, sent.expires_in) == (60, "other", 9, 60)
    assert sent.headers == '{"new":1}'
    assert sent.options == '{"time_limit":5,"shadow":"kept","soft_time_limit":4,"ignore_result":false}'


def test_retry_may_wait_for_a_time():
    at = datetime(2030, 1, 1, tzinfo=UTC)

    @shared_task(bind=True)
    def again(self):
        self.retry(eta=at)

    sent = execute(again, countdown=5).outcome.next
    assert (sent.eta, sent.countdown) == (at, None)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"contdown": 5}, TypeError),
        ({"priority": 1000}, ValueError),
        ({"queue": "x" * 200}, ValueError),
        ({"soft_time_limit": 9, "time_limit": 1}, ValueError),
        ({"args": (object(),)}, TypeError),
    ],
)
def test_a_retry_with_a_bad_option_fails_the_job_with_the_reason(options, error):
    @shared_task(bind=True)
    def again(self):
        self.retry(**options)

    assert failure(execute(again)).kind == error.__name__


def test_retry_without_throw_returns_what_is_to_be_raised():
    @shared_task(bind=True)
    def again(self):
        error = self.retry(throw=False, countdown=3)
        assert isinstance(error, Retry)
        raise error

    assert execute(again).outcome.next.countdown == 3


def test_a_retry_tells_what_led_to_it():
    @shared_task(bind=True)
    def again(self):
        try:
            {}[1]
        except KeyError as error:
            self.retry(exc=error)

    outcome = execute(again).outcome
    assert outcome.failure.kind == "KeyError"
    assert "{}[1]" in outcome.failure.traceback


def test_a_retry_raised_by_hand_is_one():
    @shared_task
    def by_hand(when):
        raise Retry("later", when=when)

    at = datetime(2030, 1, 1, tzinfo=UTC)
    assert execute(by_hand, 5).outcome.next.countdown == 5
    assert execute(by_hand, at).outcome.next.eta == at
    assert execute(by_hand, None).outcome.next.countdown == 0


@pytest.mark.parametrize(
    ("declared", "called", "retries", "ends"),
    [
        ({}, {}, 2, "RETRY"),
        ({}, {}, 3, "FAILURE"),
        ({"max_retries": 0}, {}, 0, "FAILURE"),
        ({"max_retries": 5}, {}, 4, "RETRY"),
        ({"max_retries": None}, {}, 100_000, "RETRY"),
        ({"max_retries": None}, {"max_retries": 1}, 1, "FAILURE"),
        ({}, {"max_retries": 10}, 9, "RETRY"),
        ({}, {"max_retries": 10}, 10, "FAILURE"),
    ],
)
def test_a_job_is_retried_up_to_its_maximum(declared, called, retries, ends):
    @shared_task(bind=True, **declared)
    def again(self):
        self.retry()

    outcome = execute(again, retries=retries, **called).outcome
    assert outcome.state == ends
    if ends == "FAILURE":
        assert outcome.failure.kind == "djtasks.exceptions.MaxRetriesExceededError"


def test_the_maximum_may_be_said_by_the_retry_itself():
    @shared_task(bind=True)
    def again(self):
        self.retry(max_retries=1)

    assert execute(again, retries=0).outcome.state == "RETRY"
    assert execute(again, retries=1).outcome.state == "FAILURE"


def test_when_retries_are_used_up_the_error_that_led_to_it_is_raised():
    @shared_task(bind=True, max_retries=0)
    def again(self):
        self.retry(exc=ValueError("the cause"))

    assert (failure(execute(again)).kind, failure(execute(again)).message) == ("ValueError", "the cause")


def test_when_retries_are_used_up_without_an_error_the_exception_names_the_job():
    @shared_task(bind=True, max_retries=0)
    def again(self, x):
        self.retry()

    execution = execute(again, 5)
    assert isinstance(execution.error, MaxRetriesExceededError)
    assert str(execution.error) == f"Can't retry {again.name}[{execution.message.id}] args:[5] kwargs:{{}}"
    assert (execution.error.task_args, execution.error.task_kwargs) == ([5], {})


def test_errors_named_in_autoretry_for_are_retried_and_others_are_not():
    @shared_task(autoretry_for=(OSError,), dont_autoretry_for=(FileNotFoundError,), default_retry_delay=9)
    def fetch(error):
        raise {"connection": ConnectionError, "missing": FileNotFoundError, "value": ValueError}[error]("x")

    retried = execute(fetch, "connection").outcome
    assert (retried.state, retried.next.countdown, retried.failure.kind) == ("RETRY", 9, "ConnectionError")
    assert failure(execute(fetch, "missing")).kind == "FileNotFoundError"
    assert failure(execute(fetch, "value")).kind == "ValueError"
    assert failure(execute(fetch, "connection", retries=3)).kind == "ConnectionError"


def test_autoretry_for_may_be_one_class():
    @shared_task(autoretry_for=Exception, dont_autoretry_for=KeyError)
    def fetch(key):
        return {}[key] if key else 1 / 0

    assert execute(fetch, 0).outcome.state == "RETRY"
    assert execute(fetch, 1).outcome.state == "FAILURE"


def test_autoretry_leaves_ignore_reject_and_retry_alone():
    @shared_task(bind=True, autoretry_for=(Exception,))
    def special(self, what):
        if what == "retry":
            self.retry(countdown=1)
        raise {"ignore": Ignore, "reject": Reject}[what]

    assert execute(special, "ignore").outcome.state == "IGNORED"
    assert execute(special, "reject").outcome.state == "FAILURE"
    assert execute(special, "retry").outcome.next.countdown == 1


def test_autoretry_takes_its_options_from_retry_kwargs():
    @shared_task(autoretry_for=(OSError,), retry_kwargs={"max_retries": 7, "countdown": 2})
    def fetch():
        raise OSError

    assert execute(fetch, retries=6).outcome.next.countdown == 2
    assert execute(fetch, retries=7).outcome.state == "FAILURE"


def test_an_async_task_is_retried_too():
    @shared_task(autoretry_for=(OSError,))
    async def fetch():
        raise OSError

    assert execute(fetch).outcome.state == "RETRY"


def test_backoff_doubles_with_each_retry_up_to_its_maximum():
    @shared_task(autoretry_for=(OSError,), retry_backoff=2, retry_backoff_max=10, retry_jitter=False, max_retries=None)
    def fetch():
        raise OSError

    delays = [execute(fetch, retries=retries).outcome.next.countdown for retries in range(5)]
    assert delays == [2, 4, 8, 10, 10]


def test_backoff_has_full_jitter():
    @shared_task(autoretry_for=(OSError,), retry_backoff=True, max_retries=None)
    def fetch():
        raise OSError

    delays = [execute(fetch, retries=4).outcome.next.countdown for _ in range(60)]
    assert all(0 <= delay <= 16 for delay in delays)
    assert max(delays) - min(delays) > 4


# Ignore and Reject


def test_ignore_ends_the_job_without_a_result():
    outcome = execute(tasks.ignored).outcome
    assert (outcome.state, outcome.result, outcome.failure) == ("IGNORED", None, None)


def test_reject_fails_the_job(tmp_path):
    found = failure(execute(tasks.rejected, str(tmp_path / "x")))
    assert (found.kind, found.arguments) == ("djtasks.exceptions.Reject", '["not this one",false]')


def test_reject_with_requeue_gives_the_job_back_after_a_second_doubling_and_fails_in_the_end(tmp_path):
    def ending(losses):
        return execute(tasks.rejected, str(tmp_path / "x"), True, delivery={"losses": losses}).outcome

    assert [(ending(n).state, ending(n).delay, ending(n).count) for n in (0, 1)] == [
        ("REJECTED", 1.0, "losses"),
        ("REJECTED", 2.0, "losses"),
    ]
    assert ending(2).state == "FAILURE"


# Jobs that are not run


def refused(message_, **delivery):
    begun = []
    execution = execute_message(message_, begin=begun.append, **delivery)
    assert begun == []
    return execution


def test_an_expired_job_is_revoked_without_a_run():
    execution = refused(message(expires_at=datetime.now(UTC) - timedelta(seconds=1)))
    assert execution.outcome.state == "REVOKED"
    assert isinstance(execution.error, TaskRevokedError)
    assert execution.outcome.failure.message == "expired"


def test_a_job_that_has_not_expired_is_run():
    assert execute_message(message(expires_at=datetime.now(UTC) + timedelta(hours=1))).value == 3


def test_a_revoked_job_ends_without_a_run():
    execution = refused(message(), revoked=True)
    assert (execution.outcome.state, execution.outcome.failure.message) == ("REVOKED", "revoked")


def test_so_does_one_whose_task_nobody_knows():
    """Given back, it would be ready at once, again and again."""
    execution = execute_message(Message(id="x", task="nobody.knows"), revoked=True)
    assert (execution.outcome.state, execution.outcome.failure.message) == ("REVOKED", "revoked")


def test_a_job_whose_begin_cannot_be_told_is_given_back(caplog):
    def begin(task):
        raise LeaseLost("belongs to another")

    outcome = execute(tasks.add, 1, 2, begin=begin).outcome
    assert (outcome.state, outcome.delay, outcome.count) == ("PENDING", 1.0, None)


def test_an_unknown_task_is_given_back_longer_and_longer_and_fails_when_its_grace_is_over(settings):
    settings.DJTASKS = {"UNKNOWN_TASK_GRACE": 100}
    outcomes = [refused(message("not.here.yet"), refusals=n).outcome for n in range(9)]
    assert [each.delay for each in outcomes[:8]] == [1, 2, 4, 8, 16, 30, 30, 30]
    assert {(each.state, each.count) for each in outcomes[:8]} == {("PENDING", "refusals")}
    assert outcomes[8].state == "FAILURE"
    assert outcomes[8].failure.kind == "djtasks.exceptions.NotRegistered"
    assert outcomes[8].failure.message == "No task named 'not.here.yet' is registered here."


def test_a_long_grace_is_kept_to_its_end(settings):
    settings.DJTASKS = {"UNKNOWN_TASK_GRACE": 7 * 86400}
    outcome = refused(message("not.here.yet"), refusals=2000).outcome
    assert (outcome.state, outcome.delay) == ("PENDING", 30)


def test_a_message_of_a_newer_version_is_left_to_a_newer_worker():
    outcome = refused(message(version=VERSION + 1)).outcome
    assert (outcome.state, outcome.count) == ("PENDING", "refusals")
    assert f"version {VERSION + 1} is newer than this worker's {VERSION}" in outcome.failure.message


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"args": "no json"}, "not a value of ours"),
        ({"args": '{"a":1}'}, "args must be a list"),
        ({"args": '[{"$":"model","v":["no.such",1,null]}]'}, "not a value of ours"),
        ({"kwargs": "[]"}, "kwargs must be an object"),
        ({"kwargs": "{"}, "not a value of ours"),
        ({"options": "[]"}, "options and headers must be objects"),
        ({"options": "{"}, "not a value of ours"),
        ({"headers": "5"}, "options and headers must be objects"),
        ({"headers": "\ud800"}, "not a value of ours"),
        ({"args": "[" * 100_000}, "not a value of ours"),
    ],
    ids=str,
)
def test_a_malformed_message_fails_with_the_reason(fields, text):
    found = failure(refused(message(**fields)))
    assert found.kind == "djtasks.exceptions.MalformedMessage"
    assert text in found.message


def test_arguments_that_do_not_fit_fail_the_job():
    found = failure(execute_message(message(args="[1]")))
    assert found.kind == "TypeError"
    assert "missing 1 required positional argument: 'y'" in found.message


def test_an_instance_that_is_gone_fails_the_job(db):
    group = Group.objects.create(name="staff")
    sent = publish.build("tests.tasks.raise_text", (group,), {}, {})
    group.delete()
    assert failure(execute_message(sent)).kind == "django.contrib.auth.models.Group.DoesNotExist"


# The request


def test_the_request_tells_of_the_job():
    seen = {}

    @shared_task(bind=True)
    def look(self, x, y=0):
        names = (
            "id", "task", "args", "kwargs", "root_id", "parent_id", "group", "retries", "is_eager", "eta", "expires",
            "headers", "hostname", "time_limit", "soft_time_limit", "ignore_result", "shadow", "called_directly",
            "replaced_task_nesting", "correlation_id", "timelimit",
        )  # fmt: skip
        seen.update({name: getattr(self.request, name) for name in names}, text=repr(self.request))
        assert self.request.get("id") == self.request.id
        assert self.request.get("nothing", 5) == 5
        assert current_task == current_task
        assert current_task.request.id == self.request.id

    eta = datetime(2025, 1, 1, tzinfo=UTC)
    options = {"time_limit": 9, "soft_time_limit": 8, "shadow": "s", "headers": {"h": 1}, "retries": 2, "eta": eta}
    execution = execute(look, 1, kwargs={"y": 2}, root_id="root", parent_id="parent", ignore_result=True, **options)
    assert execution.outcome.state == "SUCCESS"
    text = seen.pop("text")
    job_id = execution.message.id
    assert job_id in text
    assert look.name in text
    assert seen == {
        "id": job_id, "task": look.name, "args": [1], "kwargs": {"y": 2}, "root_id": "root", "parent_id": "parent",
        "group": None, "retries": 2, "is_eager": False, "eta": eta, "expires": None, "headers": {"h": 1},
        "hostname": "here", "time_limit": 9, "soft_time_limit": 8, "ignore_result": True, "shadow": "s",
        "called_directly": False, "replaced_task_nesting": 0, "correlation_id": job_id, "timelimit": (9, 8),
    }  # fmt: skip


def test_a_job_that_nobody_sent_from_a_job_is_its_own_root():
    @shared_task(bind=True)
    def look(self):
        return self.request.root_id, self.request.parent_id

    execution = execute(look)
    assert execution.value == (execution.message.id, None)


def test_limits_come_from_the_call_the_task_or_the_settings(settings):
    settings.DJTASKS = {"TASK_TIME_LIMIT": 100, "TASK_SOFT_TIME_LIMIT": 3}

    @shared_task(bind=True, time_limit=50)
    def look(self):
        return self.request.timelimit

    assert execute(look).value == (50, 3)
    assert execute(look, time_limit=20, soft_time_limit=2).value == (20, 2)


@pytest.mark.parametrize(
    ("delivery", "retries", "redelivered"),
    [({"token": 1}, 0, False), ({"token": 2}, 1, False), ({"token": 2}, 0, True), ({"token": 2, "losses": 1}, 1, True)],
)
def test_the_request_tells_priority_and_whether_the_job_was_delivered_before(delivery, retries, redelivered):
    @shared_task(bind=True)
    def look(self):
        info = self.request.delivery_info
        return info["priority"], info.get("redelivered")

    assert execute(look, priority=6, retries=retries, delivery=delivery).value == (6, redelivered)


# Signals and hooks


class Telling(Task):
    """Tells of its hooks: appends (hook, its arguments …) to `said`."""

    said = []

    def before_start(self, *args):
        self.said.append(("before_start", *args))

    def on_success(self, *args):
        self.said.append(("on_success", *args))

    def on_failure(self, *args):
        self.said.append(("on_failure", *args))

    def on_retry(self, *args):
        self.said.append(("on_retry", *args))

    def after_return(self, *args):
        self.said.append(("after_return", *args))


SIGNALS = ("received", "prerun", "postrun", "success", "failure", "retry", "revoked", "rejected", "unknown")


@pytest.fixture
def telling():
    """A task whose `said` has what hooks and signals said, in order; signals as (name, sender, arguments)."""

    @shared_task(name="telling", bind=True, base=Telling, said=[])
    def telling(self, what):
        self.said.append(("run",))
        match what:
            case "fail":
                raise ValueError("x")
            case "retry":
                self.retry(exc=KeyError("k"))
            case "ignore":
                raise Ignore
            case "reject":
                raise Reject("no", requeue=True)
        return what

    connected = []
    for which in SIGNALS:
        signal = getattr(signals, f"task_{which}")
        receiver = signal.connect(lambda sender, _which=which, **named: telling.said.append((_which, sender, named)))
        connected.append((signal, receiver))
    yield telling
    for signal, receiver in connected:
        signal.disconnect(receiver)


def named(entry):
    return {key: value for key, value in entry[2].items() if key != "signal"}


def test_of_a_success_hooks_and_signals_are_told_in_celerys_order(telling):
    execution = execute(telling, "ok")
    job = execution.message.id
    assert [each[0] for each in telling.said] == [
        "received", "prerun", "before_start", "run", "on_success", "success", "after_return", "postrun",
    ]  # fmt: skip
    received, prerun, before_start, _, on_success, success, after_return, postrun = telling.said
    assert (named(received)["request"].id, named(received)["request"].task_name) == (job, "telling")
    assert (prerun[1], named(prerun)) == (
        telling, {"task_id": job, "task": telling, "args": ["ok"], "kwargs": {}}
    )  # fmt: skip
    assert before_start[1:] == (job, ["ok"], {})
    assert on_success[1:] == ("ok", job, ["ok"], {})
    assert (success[1], named(success)) == (telling, {"result": "ok", "task_id": job})
    assert after_return[1:] == ("SUCCESS", "ok", job, ["ok"], {}, None)
    assert named(postrun) == {
        "task_id": job, "task": telling, "args": ["ok"], "kwargs": {}, "retval": "ok", "state": "SUCCESS",
    }  # fmt: skip


def test_of_a_failure_hooks_and_signals_are_told_in_celerys_order(telling):
    execution = execute(telling, "fail")
    job, error = execution.message.id, execution.error
    assert [each[0] for each in telling.said][3:] == ["run", "on_failure", "failure", "after_return", "postrun"]
    on_failure, failed, after_return, postrun = telling.said[4:]
    assert on_failure[1:5] == (error, job, ["fail"], {})
    assert "ValueError: x" in str(on_failure[5])
    assert on_failure[5].exception is error
    assert on_failure[5].type is ValueError
    details = named(failed)
    assert failed[1] is telling
    assert (details["task_id"], details["exception"], details["args"], details["kwargs"]) == (job, error, ["fail"], {})
    assert details["traceback"] is error.__traceback__
    assert "ValueError: x" in str(details["einfo"])
    assert after_return[1:3] == ("FAILURE", error)
    assert (named(postrun)["state"], named(postrun)["retval"]) == ("FAILURE", error)


def test_of_a_retry_hooks_and_signals_are_told_and_after_return_is_not(telling):
    execution = execute(telling, "retry")
    assert [each[0] for each in telling.said][3:] == ["run", "on_retry", "retry", "postrun"]
    _, on_retry, retried, postrun = telling.said[3:]
    assert isinstance(on_retry[1], KeyError)
    assert (retried[1], named(retried)["request"].id) == (telling, execution.message.id)
    assert named(retried)["reason"] is execution.error
    assert named(postrun)["state"] == "RETRY"


def test_of_ignored_and_rejected_jobs_only_signals_are_told(telling):
    execute(telling, "ignore")
    assert [each[0] for each in telling.said][3:] == ["run", "postrun"]
    telling.said.clear()
    execute(telling, "reject")
    assert [each[0] for each in telling.said][3:] == ["run", "rejected", "postrun"]


def test_of_a_job_that_is_not_run_only_its_signal_is_told(telling):
    sent = publish.build("telling", ("ok",), {}, {}, telling)
    execute_message(sent, revoked=True)
    _, revoked = telling.said
    assert (revoked[0], revoked[1]) == ("revoked", telling)
    assert {key: named(revoked)[key] for key in ("terminated", "signum", "expired")} == {
        "terminated": False, "signum": None, "expired": False,
    }  # fmt: skip
    telling.said.clear()
    execute_message(replace(sent, expires_at=datetime(2020, 1, 1, tzinfo=UTC)))
    assert named(telling.said[1])["expired"] is True
    telling.said.clear()
    execute_message(replace(sent, task="nobody.knows"))
    ((which, _, details),) = telling.said
    assert (which, details["name"], details["id"]) == ("unknown", "nobody.knows", sent.id)


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        (broken, error)
        for broken in ("on_success", "after_return", "task_success", "task_postrun", "task_received", "task_prerun")
        for error in (RuntimeError, SystemExit)
        if error is RuntimeError or broken not in ("task_received", "task_prerun")
    ],
)
def test_a_hook_or_receiver_that_raises_changes_no_outcome_and_silences_no_other(telling, broken, error, caplog):
    def fails(*args, **kwargs):
        raise error("in a hook")

    if broken.startswith("task_"):
        getattr(signals, broken).connect(fails)
    else:
        setattr(telling, broken, fails)
    try:
        outcome = execute(telling, "ok").outcome
    finally:
        if broken.startswith("task_"):
            getattr(signals, broken).disconnect(fails)
    assert (outcome.state, outcome.result) == ("SUCCESS", '"ok"')
    assert {"on_success", "after_return", "success", "postrun"} - {each[0] for each in telling.said} <= {broken}
    assert "in a hook" in caplog.text


def test_a_receiver_that_leaves_python_before_the_run_fails_the_job():
    @signals.task_received.connect
    def leave(**named):
        sys.exit("goodbye")

    try:
        assert failure(execute(tasks.add, 1, 2)).kind == "SystemExit"
    finally:
        signals.task_received.disconnect(leave)


def test_what_before_start_raises_fails_the_job(telling):
    def refuse(*args):
        raise PermissionError("not now")

    telling.before_start = refuse
    assert failure(execute(telling, "ok")).kind == "PermissionError"


def test_an_expected_error_is_logged_without_its_traceback(caplog):
    @shared_task(throws=(KeyError,))
    def expected():
        raise KeyError("known")

    with caplog.at_level(logging.INFO, "djtasks"):
        execution = execute(expected)
        execute(tasks.fail)
    records = [record for record in caplog.records if " raised " in record.getMessage()]
    assert [(record.levelname, bool(record.exc_info)) for record in records] == [("INFO", False), ("ERROR", True)]
    assert records[0].getMessage() == (
        f"Task {expected.name}[{execution.message.id}] raised expected: KeyError('known')"
    )


# Nothing is left to the next job


def test_contextvars_language_and_time_zone_of_one_job_do_not_reach_the_next():
    mine = ContextVar("mine", default="untouched")

    @shared_task
    def leave_traces():
        seen = mine.get(), translation.get_language(), timezone.get_current_timezone_name()
        mine.set("touched")
        translation.activate("de")
        timezone.activate("Asia/Tokyo")
        return seen

    first, second = execute(leave_traces).value, execute(leave_traces).value
    assert first == second == ("untouched", "en", "Europe/Berlin")
    assert mine.get() == "untouched"


def test_after_a_job_no_task_is_current():
    execute(tasks.add, 1, 2)
    execute(tasks.fail)
    assert not current_task
    assert registry.get("tests.tasks.add").request.id is None


# What is stored


@pytest.mark.parametrize(
    ("task", "args", "state"),
    [
        (tasks.add, (1, 2), "SUCCESS"),
        (tasks.fail, (), "FAILURE"),
        (tasks.raise_text, ("a\0b \ud800",), "FAILURE"),
        (tasks.raise_text, ("x", 300_000), "FAILURE"),
        (tasks.raise_not_rebuildable, (), "FAILURE"),
        (tasks.ignored, (), "IGNORED"),
        (tasks.leave, (), "FAILURE"),
    ],
    ids=lambda value: getattr(value, "name", None) or str(value)[:20],
)
def test_each_outcome_can_be_stored_and_read(database, broker, task, args, state, caplog):
    caplog.set_level(logging.CRITICAL, "djtasks")
    broker.enqueue([publish.build(task.name, args, {}, {}, task)])
    (delivery,) = broker.claim("default", limit=1, worker="one")
    execution = execute_message(
        delivery.message, token=delivery.token, attempts=delivery.attempts, created_at=delivery.created_at
    )
    outcome = replace(execution.outcome, delivery=delivery)
    assert Job.objects.record("one", [outcome]) == {delivery.id}
    row = Job.objects.get(pk=delivery.id)
    assert row.state == state
    assert row.result == outcome.result
    if outcome.failure:
        found = outcome.failure
        assert (row.exception, row.exception_message) == (found.kind, found.message)
        assert (row.exception_args, row.traceback) == (found.arguments, found.traceback)
        assert exception_of(row) is not None
    assert row.finished_at >= row.started_at >= row.created_at - timedelta(seconds=1)


@pytest.mark.parametrize(
    "when",
    [float("inf"), float("nan"), 1e15, datetime(2030, 1, 1), datetime(1, 1, 1, tzinfo=ZoneInfo("Asia/Karachi"))],
)
def test_a_retry_by_hand_for_a_time_that_cannot_be_fails_clearly(own_tasks, when):
    @shared_task(name="tests.impossible")
    def impossible():
        raise Retry(when=when)

    outcome = execute(impossible).outcome
    assert outcome.state == "FAILURE"
    assert outcome.failure.kind == "ValueError"


def test_an_exception_whose_module_is_no_text_for_a_database_is_stored_escaped():
    class Odd(Exception):
        __module__ = "odd\ud800\x00"

    assert failure_of(Odd()).kind.startswith("odd\\ud800\\x00.")


# Where it came from


def send_it():
    return tasks.fail.delay()


def test_a_failure_tells_where_its_job_was_sent_from_if_that_is_noted(db, settings):
    settings.DJTASKS = {**settings.DJTASKS, "TRACE_ENQUEUE": True}
    result = send_it()
    run_jobs()
    told = result.traceback
    assert told.startswith("Sent from (most recent call last):\n")
    origin, _, trace = told.partition("Traceback (most recent call last):")
    assert "in send_it\n    return tasks.fail.delay()" in origin
    assert "djtasks/task.py" not in origin
    assert trace.rstrip().endswith("ValueError: ('broken', 42)")


def test_where_a_job_was_sent_from_is_not_noted_unless_asked_for(db):
    result = send_it()
    run_jobs()
    assert result.traceback.startswith("Traceback")
    assert Job.objects.get().options == "{}"
