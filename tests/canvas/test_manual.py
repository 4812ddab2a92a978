"""What the canvas chapter of Celery's manual, and "Linking" in the one on calling, let a reader expect.

In the order of the manual; each holds at once and by each kind of broker.
"""

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest
from django.contrib.auth.models import User

from djtasks import AsyncResult, GroupResult, chain, chord, group, send_task, shared_task, signature
from djtasks.exceptions import ChordError, NotRegistered
from djtasks.models import Job
from djtasks.result import allow_join_result
from djtasks.testing import eager, run_jobs
from tests.canvas.tasks import (
    Expected,
    add,
    echo,
    echo_value,
    errback_of_id,
    errback_of_request,
    fail,
    identity,
    mul,
    replaced_by_chain,
    retried_once,
    total,
    unkept,
)  # fmt: skip
from tests.canvas.ways import nothing_is_left, run_here, run_queued
from tests.tasks import note

pytestmark = pytest.mark.parametrize("database", ["sqlite", "redis"], indirect=True)


@shared_task
def add_loudly(x, y, loud=False):
    return [x + y, loud]


@shared_task
def sign_up(name, mail):
    return {"name": name, "mail": mail}


@shared_task
def greet(user, word="Hello"):
    return f"{word}, {user['name']}"


@shared_task
def look_up(job_id, path):
    """An error callback of one argument, which asks for the rest."""
    with allow_join_result():
        error = AsyncResult(job_id).get(propagate=False)
    note(path, f"{type(error).__name__} {AsyncResult(job_id).traceback is not None}")


@shared_task(bind=True)
def bound_errback(self, request, error, traceback, path):
    note(path, f"{self.name.rpartition('.')[2]} {request.id} {type(error).__name__}")


@shared_task
def name_of(user):
    return user.username


TYPED = {
    "price": Decimal("1.10"), "data": b"\x00\xff", "days": [date(2026, 2, 28), timedelta(1)], "tags": {"new"},
    "at": datetime(2026, 2, 28, tzinfo=UTC), "id": UUID(int=7),
}  # fmt: skip


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "notes")


@pytest.fixture(params=["here", "queued"])
def run(request, database):
    return run_here if request.param == "here" else run_queued


def notes(path):
    return sorted(Path(path).read_text().splitlines()) if Path(path).exists() else []


def some(number):
    return (add.s(i, i) for i in range(number))


# Signatures, partials, immutability, and what the primitives make of them: a canvas, and what comes of it
VALUES = {
    "by the task's name": (lambda: signature(add.name, args=(2, 2), countdown=0), 4),
    "by the task": (lambda: add.signature((2, 2), countdown=0), 4),
    "with keywords": (lambda: add_loudly.s(2, 2, loud=True), [4, True]),
    "clone": (lambda: add_loudly.s(2).clone(args=(4,), kwargs={"loud": True}), [6, True]),
    "chain": (lambda: chain(add.s(2, 2), add.s(4), add.s(8)), 16),
    "pipes": (lambda: add.s(2, 2) | add.s(4) | add.s(8), 16),
    "independent steps": (lambda: add.si(2, 2) | add.si(4, 4) | add.si(8, 8), 16),
    "group": (lambda: group(some(10)), list(range(0, 20, 2))),
    "group of thirty": (lambda: group(some(30)), list(range(0, 60, 2))),
    "group of a list": (lambda: group([add.s(2, 2), add.s(4, 4)]), [4, 8]),
    "chord": (lambda: chord(some(10), total.s()), 90),
    "chord with an immutable body": (lambda: chord([identity.s(1), identity.s(2)], identity.si("told")), "told"),
    "chains combined": (lambda: add.s(4, 16) | mul.s(2) | (add.s(4) | mul.s(8)), 352),
    "group, then a task": (lambda: group(some(10)) | total.s(), 90),
    "what is before a group goes to all of it": (
        lambda: sign_up.s("Ada", "ada@example.org") | group(greet.s(), greet.s(word="Bye")),
        ["Hello, Ada", "Bye, Ada"],
    ),
    "unless they are immutable": (lambda: add.s(4, 4) | group(add.si(i, i) for i in range(3)), [0, 2, 4]),
    "or all of the group is": (lambda: add.s(4, 4) | group(add.s(1, 1), add.s(2, 2)).set(immutable=True), [2, 4]),
    "an immutable chain": (lambda: add.s(4, 4) | chain(add.s(1, 1), add.s(1)).set(immutable=True), 3),
    "an immutable header": (lambda: add.s(4, 4) | chord([add.s(1, 1)], total.s()).set(immutable=True), 2),
    "a group of one is its member, in a chain": (lambda: chain(add.s(2, 2), group(add.s(1)), add.s(1)), 6),
    "first, too": (lambda: chain(group(add.s(1, 1)), add.s(2)), 4),
    "but not before the operator": (lambda: group(add.s(1, 1)) | total.s(), 2),
    "a chord without a body": (lambda: chord([add.s(4, 4), add.s(8, 8)]), [8, 16]),
    "a chord whose body is empty": (lambda: chord([add.s(4, 4), add.s(8, 8)], chain()), [8, 16]),
    "map": (lambda: total.map([range(10), range(100)]), [45, 4950]),
    "starmap": (lambda: add.starmap(zip(range(10), range(10), strict=True)), list(range(0, 20, 2))),
    "starmap in a group": (lambda: group(add.starmap([(1, 1)]), total.map([[1, 2]])), [[2], [3]]),
    "chunks": (
        lambda: add.chunks(zip(range(100), range(100), strict=True), 10),
        [list(range(i, i + 20, 2)) for i in range(0, 200, 20)],
    ),
    "chunks as a group": (lambda: add.chunks([(1, 1), (2, 2), (3, 3)], 2).group().skew(start=0, stop=0), [[2, 4], [6]]),
    "chunks as a body": (lambda: chord([add.s(1, 1)], add.chunks([(1, 1), (2, 2)], 1)), [[2], [4]]),
    # What the manual takes for granted of values
    "None": (lambda: chain(identity.s(None), identity.s(), group(identity.s(), identity.s())), [None, None]),
    "nothing at all": (lambda: chain(identity.s([]), chord([identity.s(), identity.si("")], identity.s())), [[], ""]),
    "text": (lambda: chain(identity.s("žluť \U0001f40e\x00"), group([identity.s()] * 2)), ["žluť \U0001f40e\x00"] * 2),
    "much": (lambda: chain(identity.s("x" * 100_000), chord([identity.s()] * 2, identity.s())), ["x" * 100_000] * 2),
    "typed": (lambda: chain(identity.s(TYPED), chord([identity.s()] * 2, identity.s())), [TYPED, TYPED]),
    "typed, after a retry": (lambda: chain(retried_once.s(1), identity.si(TYPED), identity.si(x=TYPED)), TYPED),
    "ignored": (lambda: chain(unkept.s(1), group(unkept.s(), unkept.s()), total.s()), 2),
    "retries and replacements": (
        lambda: chord([retried_once.s(1) | replaced_by_chain.s(), retried_once.s(2)], retried_once.s() | total.s()),
        3,
    ),
}  # fmt: skip


def test_each_example_gives_what_the_manual_says(run):
    results = {name: make().apply() if run is run_here else make().apply_async() for name, (make, _) in VALUES.items()}
    if run is run_queued:
        run_jobs()
    assert {name: result.get(timeout=1) for name, result in results.items()} == {
        name: expected for name, (_make, expected) in VALUES.items()
    }
    assert nothing_is_left()


# Signatures


def test_a_signature_is_called_here(database):
    assert [add.s(2, 2)(), add.s(2)(4), add_loudly.s(2, 2)(loud=True)] == [4, 6, [4, True]]
    sig = add_loudly.signature((2, 2), {"loud": True}, countdown=10)
    assert (sig.args, sig.kwargs, sig.options) == ((2, 2), {"loud": True}, {"countdown": 10})
    assert repr(sig) == "tests.canvas.test_manual.add_loudly(2, 2, loud=True)"


def test_what_is_given_when_it_is_sent_goes_before_and_above(database):
    partial, whole = add.s(2), add_loudly.s(2, 2)
    delayed = add.signature((2, 2), countdown=3600)
    results = [
        partial.delay(4), partial.apply_async((4,)), whole.delay(loud=True), whole.apply_async(kwargs={"loud": True}),
        delayed.apply_async(countdown=0), delayed.delay(),
    ]  # fmt: skip
    run_jobs()
    assert [each.get(timeout=1) for each in results[:-1]] == [6, 6, [4, True], [4, True], 4]
    assert not results[-1].ready()


def test_chains_groups_and_chords_take_arguments_too(run, database):
    assert run(add.s(4) | mul.s(8), 16).get(timeout=1) == 160
    calls = [add.s(1) | add.s(2), group(add.s(1), add.s(2)), chord([add.s(1), add.s(2)], total.s())]
    values = [_sent(run, sig, x=5).get(timeout=1) for sig in [add.s(y=1) | add.s(2), group(add.s(y=1), add.s(y=2))]]
    assert values == [8, [6, 7]]
    assert [run(sig, 5).get(timeout=1) for sig in calls] == [8, [6, 7], 13]
    by_keyword = [group(add.s(1), add.s(2)) | total.s(), chord((add.s(i) for i in (1, 2)), total.s())]
    assert [_sent(run, sig, y=5).get(timeout=1) for sig in by_keyword] == [13, 13]


def _sent(run, sig, **kwargs):
    if run is run_here:
        return sig.apply((), kwargs)
    result = sig.delay(**kwargs)
    run_jobs()
    return result


def test_the_tilde_sends_and_waits(database):
    with eager():
        assert [~add.s(2, 2), ~(add.s(2, 2) | add.s(1)), ~add.map([]) == []] == [4, 5, True]


def test_how_a_canvas_reads(database):
    assert repr(chain(add.s(4, 4), mul.s(8), mul.s(10))) == "tests.canvas.tasks.add(4, 4) | mul(8) | mul(10)"
    assert repr(chain(add.s(2, 2), group(add.s(1)), add.s(1))) == "tests.canvas.tasks.add(2, 2) | add(1) | add(1)"


@pytest.mark.parametrize("make", [lambda x: chain(identity.s(1), x), lambda x: group([x]), lambda x: chord([x], x)])
@pytest.mark.parametrize("mistake", [[identity.s()], 3, print, {"task": 3}])
def test_what_is_no_signature_is_refused_at_once(database, make, mistake):
    with pytest.raises(TypeError, match=r"Neither a signature nor a task|is no signature"):
        make(mistake).apply_async()
    assert not Job.objects.exists()


# Callbacks


def test_a_link_gets_the_result_unless_it_is_immutable(database, path):
    add.apply_async((2, 2), link=add.s(8) | echo_value.s(path))
    add.apply_async((2, 2), link=echo.si(path, "reset"))
    add.apply_async((2, 2), link=echo.signature((path, "by an option"), immutable=True))
    add.apply_async((2, 2), link=[add.s(16) | echo_value.s(path), echo.si(path, "second")])
    sig = add.s(2, 2)
    sig.link(mul.s(4) | echo_value.s(path))
    sig.link(group(echo_value.s(path), add.s(1)))
    sig.delay()
    fail.apply_async(link=echo.si(path, "never"))
    run_jobs()
    assert notes(path) == sorted(["12", "reset", "by an option", "20", "second", "16", "4"])


def test_what_a_job_has_led_to_can_be_walked(run):
    result = run(add.s(2, 2).set(link=mul.s(16)))
    assert (result.get(timeout=1), [each.get() for each in result.children]) == (4, [64])
    assert [value for _each, value in result.collect()] == [4, 64]
    first = run(add.s(1, 1) | group(add.s(2), add.s(3)) | total.s()).parent.parent
    assert [value for _each, value in first.collect()] == [2, [4, 5], 4, 5, 9]


def test_a_walk_need_not_wait(database):
    result = add.apply_async((2, 2), link=mul.s(16).set(countdown=3600))
    assert [value for _each, value in result.collect(intermediate=True)] == [None]
    run_jobs()
    assert [value for _each, value in result.collect(intermediate=True)] == [4, None]


def test_error_callbacks_in_all_styles(run, path):
    """By the id, by all three, bound, in a canvas of their own; the id is that of the job that failed."""
    styles = [
        look_up.s(path) if run is run_queued else errback_of_id.s(path=path),  # of an eager run nothing is stored
        errback_of_id.s(path=path),
        errback_of_request.s(path=path),
        bound_errback.s(path),
        chain(errback_of_request.s(path=path), echo.si(path, "then")),
        group(errback_of_id.s(path=path), errback_of_request.s(path=path), echo.si(path, "and")),
        chain(echo.s(path, "only then")).set(immutable=True),
    ]
    for number, style in enumerate(styles):
        sig = fail.si().on_error(style)
        sig.id = f"failed-{number}"
        run(sig)
    assert notes(path) == sorted(
        [
            "Expected True" if run is run_queued else "id failed-0",
            "id failed-1",
            "request failed-2 Expected True",
            "bound_errback failed-3 Expected",
            "request failed-4 Expected True",
            "then",
            "id failed-5",
            "request failed-5 Expected True",
            "and",
            "only then",
        ]
    )


def test_callbacks_may_fail_and_have_callbacks_of_their_own(run, path):
    run(fail.si().on_error(fail.s().on_error(echo.si(path, "of the error callback"))))
    run(identity.s(1).set(link=fail.s().on_error(echo.si(path, "of the callback"))))
    assert notes(path) == ["of the callback", "of the error callback"]


def test_links_of_a_task_sent_by_name(database, path):
    send_task(add.name, (2, 2), link=echo_value.s(path))
    send_task(fail.name, link_error=look_up.s(path))
    run_jobs()
    assert notes(path) == ["4", "Expected True"]


# Chains


def test_a_chain_knows_its_intermediate_results(run):
    result = run(chain(add.s(4, 4), mul.s(8), mul.s(10)))
    assert [result.get(timeout=1), result.parent.get(), result.parent.parent.get()] == [640, 64, 8]
    assert (isinstance(result.parent.parent, AsyncResult), result.parent.parent.parent) == (True, None)
    group_result = run(add.s(4, 4) | group(add.si(i, i) for i in range(3)))
    assert (type(group_result), group_result.parent.get(timeout=1)) == (GroupResult, 8)


def test_a_task_that_nobody_here_knows(database):
    """In the middle of a chain it is sent by its name, with the result; at once there is nobody else to run it."""
    sig = add.s(1, 1) | signature("elsewhere.task", (3,)) | add.s(1)
    with pytest.raises(NotRegistered):
        sig.apply().get()
    result = sig.delay()
    run_jobs()
    assert [result.ready(), result.parent.ready(), result.parent.parent.get()] == [False, False, 2]
    Job.objects.all().delete()


def test_a_model_instance_is_passed_to_later_steps_as_it_is_then(database):
    user = User.objects.using(database).create(username="Ada")
    result = chain(identity.s(1), name_of.si(user), chord([name_of.si(user), name_of.si(user=user)], identity.s()))
    sent = result.delay()
    User.objects.using(database).update(username="Countess")
    run_jobs()
    assert (sent.get(timeout=1), sent.parent.parent.get()) == (["Countess", "Countess"], "Countess")
    user.delete(using=database)


def test_ids_of_ones_own(run):
    suffix = run.__name__
    canvases = {
        "chain": identity.s(1) | add.s(1),
        "ends in a group": identity.s(1) | group(add.s(1), add.s(2)),
        "chord": chord([identity.s(1)], identity.s()),
        "group body": chord([identity.s(1)], group(identity.s(), identity.s())),
        "group": group(identity.s(1), identity.s(2)),
        "group and task": group(identity.s(1), identity.s(2)) | total.s(),
    }
    results = {name: run(sig, task_id=f"{name} {suffix}") for name, sig in canvases.items()}
    assert [each.id for each in results.values()] == [f"{name} {suffix}" for name in canvases]
    assert [each.get(timeout=1) for each in results.values()] == [2, [2, 3], [1], [[1], [1]], [1, 2], 3]


def test_frozen_and_sent_twice_it_runs_once(database):
    sig = identity.s(1) | group(add.s(1), add.s(2)) | total.s()
    frozen = sig.freeze()
    rebuilt = signature(json.loads(json.dumps(sig)))
    assert [sig.freeze().id, sig.delay().id, sig.delay().id, rebuilt.delay().id] == [frozen.id] * 4
    assert run_jobs() == 4
    assert (frozen.get(timeout=1), frozen.parent.get(), frozen.parent.parent.get()) == (5, [2, 3], 1)


# Groups


def test_what_a_group_result_tells(database):
    result = group(add.s(i, i) for i in (2, 4, 8, 16, 32)).apply_async()
    assert [result.ready(), result.waiting(), result.completed_count()] == [False, True, 0]
    run_jobs()
    assert [result.ready(), result.waiting(), result.completed_count()] == [True, False, 5]
    assert (result.successful(), result.failed(), result.get(), result.join()) == (
        True,
        False,
        *[[4, 8, 16, 32, 64]] * 2,
    )
    mixed = run_queued(group(add.s(1, 1), fail.s()))
    assert (mixed.successful(), mixed.failed(), mixed.completed_count()) == (False, True, 1)


def test_the_callbacks_of_a_group(run, path):
    """One link is that of the first member, without its result; an error callback is that of each member."""
    sig = group(add.s(2, 2), add.s(4, 4))
    sig.link(echo.s(path, "linked"))
    run(sig)
    failing = group(fail.s(), add.s(4, 4), fail.s())
    failing.link_error(errback_of_request.s(path=path))
    run(failing)
    assert [line.split()[0] for line in notes(path)] == ["linked", "request", "request"]


def test_a_skewed_group_waits_a_little_more_for_each(database):
    skewed = add.chunks(zip(range(100), range(100), strict=True), 10).group().skew(start=1, stop=10)
    assert [each.options["countdown"] for each in skewed.tasks] == list(range(1, 11))
    result = add.starmap([(1, 1)]).apply_async(countdown=3600)
    run_jobs()
    assert not result.ready()


# Chords


def test_a_chord_is_called_with_its_body(database):
    header = [add.s(i, i) for i in range(20)]
    results = [chord(header)(total.s()), chord(some(20))(total.s()), chord(header).delay(body=total.s())]
    run_jobs()
    assert [each.get(timeout=1) for each in results] == [380] * 3


def test_an_error_in_a_header(run, path):
    """The others run all the same; the body fails with ChordError, which names the job that failed first."""
    body = total.s().on_error(errback_of_request.s(path=path))
    result = run(chord([add.s(4, 4), fail.s("something"), echo.si(path, "ran")], body))
    failed = result.parent[1]
    assert (result.state, type(result.result), failed.state) == ("FAILURE", ChordError, "FAILURE")
    text = str(result.result)
    assert failed.id in text
    assert "something" in text
    assert (notes(path)[0], "ChordError" in notes(path)[1]) == ("ran", True)
    with pytest.raises(Expected):
        run(chord([add.s(4, 4), fail.s()])).get(timeout=1)


def test_the_traceback_of_a_body_shows_where_its_header_failed(run):
    result = run(chord([identity.s(1), fail.s("something")], total.s()))
    assert result.parent[1].traceback.strip() in result.traceback
    assert "in fail" in result.traceback


def test_errors_in_chords_of_chords_reach_each_body_once(run, path):
    inner = chord([fail.s(), identity.s(1)], total.s().on_error(echo.si(path, "inner")))
    middle = chord([inner, fail.s()], total.s().on_error(echo.si(path, "middle")))
    result = run(chord([middle, identity.s(1)], total.s().on_error(echo.si(path, "outer"))))
    with pytest.raises((ChordError, Expected)):
        result.get(timeout=1)
    assert notes(path) == ["inner", "middle", "outer"]


def test_ignored_results_are_waited_for_but_not_kept(database):
    """Of a canvas; the result of a header's member is kept, since the body needs it."""
    last, whole = run_queued(add.s(1, 1) | unkept.s()), run_queued(add.s(1, 1) | add.s(1), ignore_result=True)
    header = run_queued(chord([unkept.s(1), unkept.s(2)], unkept.s()))
    assert [last.get(timeout=1), whole.get(timeout=1), header.get(timeout=1), header.parent.get()] == [
        None, None, None, [1, 2],
    ]  # fmt: skip
    failing = run_queued(fail.s() | unkept.s())
    with pytest.raises(Expected):
        failing.get(timeout=1)


def test_links_given_to_a_chord_before_it_has_a_body(run, path):
    sig = chord([add.s(1, 1), add.s(2, 2)])
    sig.link(echo.si(path, "linked"))
    assert run(sig).get(timeout=1) == [2, 4]
    assert run(sig | total.s()).get(timeout=1) == 6
    assert notes(path) == ["linked", "linked"]
