"""Whatever stands in a queue or a row: nothing but clean errors, no import, and the worker goes on."""

import json
import os
import random
import sys

import pytest
import redis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from djtasks import encoding, states
from djtasks.admin import page
from djtasks.brokers import get_broker
from djtasks.exceptions import MalformedMessage
from djtasks.follow_ups import read_options
from djtasks.message import MAX_ID_LENGTH, MAX_NAME_LENGTH, MAX_QUEUE_LENGTH, Message, new_id
from djtasks.models import Job, JobGroup, Outbox
from djtasks.preflight import preflight
from djtasks.result import exception_of
from djtasks.testing import run_jobs
from djtasks.why import why
from tests.canvas.tasks import identity
from tests.tasks import add, try_again
from tests.waiting import wait_until

BOUNDED = {
    "deadline": None,
    "derandomize": bool(os.environ.get("CI")),
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}

TAGS = [
    "datetime",
    "date",
    "time",
    "timedelta",
    "decimal",
    "uuid",
    "bytes",
    "tuple",
    "set",
    "frozenset",
    "dict",
    "model",
]
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", "\x00", "\ud800", "x" * 300, "NaN", "-1", "2026-13-45", "os.system", "__import__('os')", "1e999"]
    ),
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), TEXTS, st.sampled_from([2**31, 2**63, -(2**70), 10**30])
)


def _containers(children):
    return st.one_of(
        st.lists(children, max_size=4),
        st.dictionaries(TEXTS, children, max_size=4),
        st.fixed_dictionaries({"$": st.one_of(st.sampled_from(TAGS), TEXTS), "v": children}),
        st.fixed_dictionaries({"task": TEXTS, "args": children, "kwargs": children, "options": children}),
        st.fixed_dictionaries({"task": TEXTS, "subtask_type": st.sampled_from(["chain", "group", "chord"])}),
    )


VALUES = st.recursive(SCALARS, _containers, max_leaves=12)
FIELDS = st.dictionaries(
    st.sampled_from([*Message.__dataclass_fields__, "unknown", "__class__"]), st.one_of(SCALARS, VALUES), max_size=6
)
_WORKFLOW = [
    "chain",
    "later",
    "link",
    "link_error",
    "header",
    "failed",
    "stands_for",
    "awaited",
    "index",
    "keeps",
    "nesting",
]
OPTIONS = st.dictionaries(
    st.sampled_from([*_WORKFLOW, "shadow", "time_limit", "soft_time_limit", "ignore_result", "max_retries", "x"]),
    VALUES,
    max_size=4,
)


def as_json(value):
    return json.dumps(value)


RAW = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    VALUES.map(as_json).map(str.encode),
    FIELDS.map(as_json).map(str.encode),
    st.sampled_from([b"[" * 100_000, b'{"a":' * 50_000, b"1" * 10_000, b'{"id":"\\ud800"}', b"\xff\xfe", b""]),
)


# What reads texts


def _read(read, *texts, **options):
    """What is read; None if that is malformed, which a short text says."""
    try:
        return read(*texts, **options)
    except MalformedMessage as error:
        if len(str(error)) > 2000:
            raise AssertionError("The error quotes all of it.") from error
        return None


@given(RAW)
@hypothesis_settings(max_examples=300, **BOUNDED)
def test_what_is_read_as_a_message_fits_its_columns_or_is_malformed(raw):
    message = _read(Message.from_json, raw)
    if message is None:
        return
    assert len(message.task) <= MAX_NAME_LENGTH
    assert len(message.queue) <= MAX_QUEUE_LENGTH
    assert all(len(each or "") <= MAX_ID_LENGTH for each in (message.parent_id, message.root_id, message.group_id))
    assert -100 <= message.priority <= 100
    assert Message.from_json(message.to_json()) == message


@given(st.one_of(RAW.map(lambda raw: raw.decode("utf-8", "replace")), VALUES.map(as_json)))
@hypothesis_settings(max_examples=300, **BOUNDED)
def test_what_is_read_as_values_arguments_or_options_is_malformed_at_worst(text):
    before = set(sys.modules)
    _read(Message.several_from_json, text)
    _read(encoding.decode, text, fetch=False)
    _read(encoding.decode_arguments, text, text, fetch=False)
    _read(read_options, text)
    assert set(sys.modules) == before


# What workers do with it


def hostile(fields, options, args):
    """The text of a message of ours, with nonsense in some of its fields."""
    valid = {"id": None, "task": identity.name, "args": "[1]", "kwargs": "{}", "version": 1}
    return {**valid, "options": as_json(options), **({"args": as_json(args)} if args is not None else {}), **fields}


MESSAGES = st.one_of(RAW, st.builds(hostile, FIELDS, OPTIONS, st.one_of(st.none(), VALUES)))


@pytest.fixture
def impatient(database, settings):
    settings.DJTASKS = {**settings.DJTASKS, "UNKNOWN_TASK_GRACE": 0}


@pytest.mark.parametrize("database", ["redis"], indirect=True)
@given(st.lists(MESSAGES, min_size=1, max_size=12), RAW)
@hypothesis_settings(max_examples=25, **BOUNDED)
def test_hostile_messages_in_redis_end_as_failures_and_harm_no_other(
    database, impatient, settings, given_messages, attempts
):
    broker = get_broker()
    ids = [new_id() for _ in given_messages]
    broker.enqueue([Message(id=each, task=identity.name) for each in ids])
    with redis.Redis.from_url(settings.DJTASKS["BROKER_URL"]) as client:
        for job_id, value in zip(ids, given_messages, strict=True):
            raw = value if isinstance(value, bytes) else as_json({**value, "id": value["id"] or job_id}).encode()
            client.hset(broker.keys.messages, job_id, raw)
            client.hset(broker.keys.attempts, job_id, attempts)
        again = try_again.delay().id
        client.hset(broker.keys.attempts, again, attempts)
    fine = add.delay(1, 2).id
    _look_at(ids)
    preflight()
    run_jobs("default")
    assert Job.objects.get(pk=fine).state == Job.objects.get(pk=again).state == states.SUCCESS
    left = {each.id for portion in broker.walk() for each in portion}
    rows = dict(Job.objects.filter(pk__in=ids).values_list("pk", "state"))
    # What asks for its result to be ignored, and succeeds, leaves no row.
    unkept = {job_id for job_id, value in zip(ids, given_messages, strict=True) if "ignore_result" in str(value)}
    assert all(rows.get(each) in states.SETTLED or each in left | unkept for each in ids), rows
    assert not broker.owners()
    _look_at(ids)
    _clean(broker)


TEXT = st.one_of(
    RAW.map(lambda raw: raw.decode("utf-8", "replace").replace("\x00", "")[:5000]),
    VALUES.map(as_json),
    OPTIONS.map(as_json),
)
COLUMNS = st.dictionaries(
    st.sampled_from(
        ["args", "kwargs", "options", "headers", "attempts", "meta", "result", "children", "exception_args"]
    ),
    TEXT,
    min_size=1,
    max_size=5,
)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@given(st.lists(COLUMNS, min_size=1, max_size=12))
@hypothesis_settings(max_examples=25, **BOUNDED)
def test_hostile_rows_end_as_failures_and_harm_no_other(database, impatient, given_columns):
    ids = [new_id() for _ in given_columns]
    for job_id, columns in zip(ids, given_columns, strict=True):
        Job.objects.create(pk=job_id, task=identity.name, queue="default", **columns)
    fine = add.delay(1, 2).id
    _look_at(ids)
    preflight()
    run_jobs("default")
    assert Job.objects.get(pk=fine).state == states.SUCCESS
    assert not Job.objects.running().exists()
    _look_at(ids)
    _clean(get_broker())


def _look_at(ids):
    """What people see of jobs: it can be shown, whatever stands in them."""
    for row in Job.objects.filter(pk__in=ids):
        page.private(row)
        page.attempts(row, with_errors=True)
        page.facts(row)
    for job_id in ids:
        assert why(job_id)


def _clean(broker):
    for queue in broker.sizes():
        broker.purge(queue)
    for model in (Job, JobGroup, Outbox):
        model.objects.all().delete()


# Exceptions


@pytest.mark.parametrize(
    "path",
    [
        "os.system", "subprocess.Popen", "builtins.eval", "builtins.SystemExit", "KeyboardInterrupt", "BaseException",
        "antigravity.Error", "djtasks.chain", "sys.modules", "", ".", "x" * 300, "os.",
    ],
)  # fmt: skip
def test_what_is_no_exception_class_of_an_imported_module_is_stood_in_for(path):
    before = set(sys.modules)
    error = exception_of(Job(pk="1", state=states.FAILURE, exception=path[:255], exception_args='["echo 1"]'))
    assert isinstance(error, Exception)
    assert type(error).__mro__[1].__name__ == "DjtasksError"
    assert set(sys.modules) == before


def test_a_lazy_module_imports_nothing_for_an_exception_either(monkeypatch):
    asked = []
    lazy = type(sys)("lazy_module")
    lazy.__getattr__ = asked.append
    monkeypatch.setitem(sys.modules, "lazy_module", lazy)
    exception_of(Job(pk="1", state=states.FAILURE, exception="lazy_module.Error", exception_args="[]"))
    assert asked == []


@given(st.text(max_size=40), TEXT, st.one_of(st.none(), TEXT))
@hypothesis_settings(max_examples=150, **BOUNDED)
def test_an_exception_of_any_row_is_one(kind, text, arguments):
    names = [kind, f"builtins.{kind}", random.Random(len(kind)).choice(sorted(sys.modules)) + ".Error"]
    for name in names:
        row = Job(pk="1", state=states.FAILURE, exception=name, exception_message=text, exception_args=arguments)
        assert isinstance(exception_of(row), Exception)


NASTY = [
    b"", b"\xff\xfe\x00", b"null", b"[" * 100_000, b'{"id": 5}', b'{"id": "another", "task": "tests.tasks.add"}',
    b'{"id": "%s", "task": "tests.tasks.add", "args": "[1, 2", "version": 1}',
    b'{"id": "%s", "task": "tests.tasks.add", "args": "[1, 2]", "options": "[]", "version": 1}',
    b'{"id": "%s", "task": "os.system", "args": "[\\"touch HERE\\"]", "version": 1}',
    b'{"id": "%s", "task": "tests.tasks.add", "args": "{\\"$\\": \\"model\\", \\"v\\": [\\"os\\", \\"system\\", 1]}"}',
    b'{"id": "%s", "task": "tests.tasks.add", "options": "{\\"time_limit\\": \\"soon\\"}", "version": 1}',
    b'{"id": "%s", "task": "tests.tasks.add", "retries": -5, "version": 99}',
]  # fmt: skip


@pytest.mark.parametrize("database", ["redis"], indirect=True)
def test_a_real_worker_goes_on_whatever_it_claims(database, start_worker, settings, tmp_path):
    broker = get_broker()
    ids = [new_id() for _ in NASTY]
    broker.enqueue([Message(id=each, task=add.name) for each in ids])
    with redis.Redis.from_url(settings.DJTASKS["BROKER_URL"]) as client:
        for job_id, raw in zip(ids, NASTY, strict=True):
            client.hset(
                broker.keys.messages,
                job_id,
                raw.replace(b"%s", job_id.encode()).replace(b"HERE", bytes(tmp_path / "here")),
            )
        client.hdel(broker.keys.messages, ids[0])
    worker = start_worker("-c", "1", UNKNOWN_TASK_GRACE=0)
    assert add.delay(1, 2).get(timeout=20) == 3
    wait_until(
        lambda: (
            set(Job.objects.filter(pk__in=ids).values_list("state", flat=True)) == {states.FAILURE}
            and Job.objects.filter(pk__in=ids).count() == len(ids)
        ),
        what="a failure of each",
    )
    wait_until(lambda: broker.sizes() == {}, what="an acknowledgement of each")  # it follows the row
    assert add.delay(1, 2).get(timeout=20) == 3
    assert "stumbled" not in worker.output
    assert not (tmp_path / "here").exists()
