"""Links, error callbacks, and where jobs of a canvas stand: ids, queues, priorities, times."""

from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from djtasks import chain, chord, group
from djtasks.brokers import get_broker
from djtasks.models import Job
from djtasks.result import AsyncResult, GroupResult
from djtasks.testing import run_jobs
from tests.canvas.tasks import (
    add,
    add_replaced,
    collect_ids,
    echo,
    echo_value,
    errback_of_id,
    errback_of_request,
    fail,
    identity,
    ids,
    place,
    replaced_by_failure,
    retried_errback,
    retried_once,
    total,
    unkept,
)  # fmt: skip
from tests.canvas.ways import nothing_is_left, run_here, run_queued
from tests.waiting import wait_until

every_broker = pytest.mark.every_broker


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "notes")


@pytest.fixture(params=["here", "queued"])
def run(request, database):
    """At once, or by a broker."""
    return run_here if request.param == "here" else run_queued


def notes(path):
    return sorted(Path(path).read_text().splitlines()) if Path(path).exists() else []


pytestmark = pytest.mark.parametrize("database", ["sqlite", "redis"], indirect=True)


def test_a_link_gets_the_result(run, path):
    run(add.s(2, 2).set(link=echo_value.s(path)))
    assert notes(path) == ["4"]


def test_links_may_be_several_and_stay_with_their_job(run, path):
    sig = add.s(2, 2)
    sig.link(echo_value.s(path))
    sig.link(echo.si(path, "second"))
    assert run(sig | add.s(1)).get(timeout=1) == 5
    assert notes(path) == ["4", "second"]


def test_a_link_may_be_a_canvas(run, path):
    run(add.s(2, 2).set(link=add.s(1) | echo_value.s(path)))
    run(add.s(2, 2).set(link=group(add.s(1), add.s(2)) | echo_value.s(path)))
    assert notes(path) == ["5", "[5, 6]"]


def test_apply_async_takes_links_as_options(database, path):
    add.apply_async((2, 2), link=[echo_value.s(path), echo.si(path, "second")])
    fail.apply_async(link_error=errback_of_id.s(path=path), task_id="own")
    run_jobs()
    assert notes(path) == ["4", "id own", "second"]


def test_the_link_of_a_chain_is_that_of_its_last_step(run, path):
    sig = identity.s(1) | add.s(1)
    sig.link(echo_value.s(path))
    assert run(sig).get(timeout=1) == 2
    assert notes(path) == ["2"]


def test_the_link_of_a_chord_is_that_of_its_body(run, path):
    sig = chord([add.s(1, 1), add.s(2, 2)], total.s())
    sig.link(echo_value.s(path))
    run(sig, link=echo.si(path, "by an option"))
    assert notes(path) == ["6", "by an option"]


@pytest.mark.parametrize(
    ("body", "linked"),
    [
        (lambda: total.s(), ["6"]),
        (lambda: chain(total.s(), add.s(1)), ["7"]),
        (lambda: chain(total.s(), group(add.s(1), add.s(2)), total.s()), ["15"]),
        (lambda: chord([total.s(), total.s()], chain(total.s(), add.s(1))), ["13"]),
    ],
    ids=["a task", "a chain", "a chain that ends in a chord", "a chord"],
)
def test_what_is_linked_to_a_chord_before_it_has_a_body_is_linked_to_the_body_it_gets(run, path, body, linked):
    sig = chord([add.s(1, 1), add.s(2, 2)])
    sig.link(echo_value.s(path))
    sig.body = body()
    run(sig)
    assert notes(path) == linked


def test_what_is_linked_to_a_chord_before_it_has_a_group_as_body_is_that_of_its_first_member(run, path):
    sig = chord([add.s(1, 1), add.s(2, 2)])
    sig.link(echo.s(path, "linked"))
    sig.body = group(chain(total.s(), add.s(1)), total.s())
    run(sig)
    assert notes(path) == ["linked"]


def test_an_error_callback_of_a_chord_that_gets_a_chain_as_body_is_called_by_the_step_that_fails(run, path):
    sig = chord([add.s(1, 1), add.s(2, 2)])
    sig.link_error(echo.si(path, "failed"))
    sig.body = chain(total.s(), fail.s(), add.s(1))
    run(sig)
    assert notes(path) == ["failed"]


def test_the_link_of_a_group_is_that_of_its_first_member(run, path):
    sig = group(identity.si(42), identity.si(1337))
    sig.link(echo.s(path, "linked"))
    assert run(sig).get(timeout=1) == [42, 1337]
    assert notes(path) == ["linked"]


def test_a_group_takes_no_link_when_it_is_sent(database):
    with pytest.raises(TypeError, match="A group takes no link"):
        group(add.s(1, 1)).apply_async(link=identity.s())


def test_links_and_error_callbacks_of_a_replaced_job_are_those_of_what_replaces_it(run, path):
    sig = add_replaced.si(42, 1337)
    sig.link(echo_value.s(path))
    assert run(chain(sig, add.s(1))).get(timeout=1) == 42 + 1338
    run(replaced_by_failure.si().on_error(echo.si(path, "failed")))
    assert notes(path) == ["1379", "failed"]


# Error callbacks


def test_an_error_callback_gets_the_id_or_all_three(run, path):
    sig = fail.si().on_error(errback_of_id.s(path=path)).on_error(errback_of_request.s(path=path))
    sig.id = "that-failed"
    run(sig)
    assert notes(path) == ["id that-failed", "request that-failed Expected True"]


def test_an_error_callback_may_take_nothing_and_may_be_retried(run, path):
    sig = fail.si().on_error(echo.si(path, "plain")).on_error(retried_errback.s(path=path))
    sig.id = "that-failed"
    run(sig)
    assert notes(path) == ["plain", "retried that-failed"]


def test_of_a_chain_the_step_that_fails_calls_the_error_callback_once(run, path):
    sig = chain(identity.si(1), fail.si(), identity.si(2))
    sig.link_error(echo.si(path, "failed"))
    run(sig)
    assert notes(path) == ["failed"]


def test_of_a_group_each_member_that_fails_calls_it(run, path):
    sig = group(fail.si(), identity.si(1), fail.si())
    sig.link_error(echo.si(path, "failed"))
    run(sig)
    assert notes(path) == ["failed", "failed"]


@pytest.mark.parametrize("errback", [errback_of_id, errback_of_request])
def test_of_a_chord_the_body_calls_it_once_however_many_members_fail(run, path, errback):
    sig = chord([fail.si(), fail.si(), identity.si(1)], identity.s())
    sig.link_error(errback.s(path=path))
    body_id = sig.body.freeze().id
    run(sig)
    assert [line.split()[1] for line in notes(path)] == [body_id]


def test_of_a_chord_with_a_group_as_body_each_of_its_members_calls_it_once(run, path):
    sig = chord([identity.si(1), fail.si()], group(identity.s(), identity.s()))
    sig.link_error(echo.si(path, "failed"))
    run(sig)
    assert notes(path) == ["failed", "failed"]


@pytest.mark.parametrize(("allowed", "expected"), [(False, ["failed"]), (True, ["failed"] * 3)])
def test_a_setting_lets_the_header_call_the_error_callbacks_too(run, path, settings, allowed, expected):
    settings.DJTASKS = {**settings.DJTASKS, "TASK_ALLOW_ERROR_CB_ON_CHORD_HEADER": allowed}
    sig = chord([fail.si(), fail.si(), identity.si(1)], identity.s())
    sig.link_error(echo.si(path, "failed"))
    run(sig)
    assert notes(path) == expected


def test_a_cancelled_job_ends_what_follows_and_calls_the_error_callbacks(database, path):
    sig = chord([identity.si(1), identity.si(2)], identity.s()).on_error(echo.si(path, "failed"))
    result = sig.apply_async()
    result.parent[0].revoke()
    run_jobs()
    assert (result.parent[0].state, result.state, notes(path)) == ("REVOKED", "FAILURE", ["failed"])
    assert "ChordError" in type(result.result).__name__
    assert nothing_is_left()


def test_an_expired_step_ends_the_chain(database):
    result = chain(identity.s(1), identity.s().set(expires=timezone.now() - timedelta(1)), identity.s()).apply_async()
    run_jobs()
    assert [result.state, result.parent.state] == ["REVOKED", "REVOKED"]
    assert nothing_is_left()


def test_a_callback_that_nobody_can_make_a_job_of_fails_the_job(database):
    result = add.apply_async((1, 1), link={"task": "tests.canvas.tasks.add", "options": {"priority": 1000}})
    run_jobs()
    assert result.state == "FAILURE"
    assert "priority" in str(result.result)


# Where they stand


def test_parent_and_root_of_a_chain(run):
    result = run(chain(ids.si(i=i) for i in range(10)))
    root = result
    while root.parent:
        root = root.parent
    number = 9
    while result is not None:
        root_id, parent_id, value = result.get(timeout=1)
        assert (root_id, value) == (root.id, number)
        assert parent_id == (result.parent.id if result.parent else None)
        result, number = result.parent, number - 1


def test_parent_and_root_of_a_group_after_steps(run):
    result = run(ids.si(i=1) | ids.si(i=2) | group(ids.si(i=i) for i in range(2, 10)))
    expected = [[result.parent.parent.id, result.parent.id, i] for i in range(2, 10)]
    assert result.get(timeout=1) == expected


@pytest.mark.parametrize("by_operator", [True, False])
def test_parent_and_root_of_a_chord_after_steps(run, by_operator):
    first, header = ids.si(i=1), group(ids.si(i=i) for i in range(3, 10))
    root_id = first.freeze().id
    body = chain(collect_ids.s(i=50), ids.si(i=51))
    sig = first | ids.si(i=2) | header | collect_ids.s(i=50) | ids.si(i=51)
    result = run(sig if by_operator else chain(first, ids.si(i=2), chord(header, body)))
    before = [result.parent, result.parent.parent, result.parent.parent.parent, result.parent.parent.parent.parent]
    assert [isinstance(each, GroupResult) for each in before] == [False, True, False, False]
    assert all(isinstance(each, AsyncResult) for each in (before[0], before[2], before[3]))
    assert result.get(timeout=1) == [root_id, before[0].id, 51]
    members, (root, parent, _i) = before[0].get(timeout=1)
    assert root == root_id
    assert parent in before[1].results
    assert {(each[0], each[1]) for each in members} == {(root_id, before[2].id)}
    assert before[2].get(timeout=1) == [root_id, before[3].id, 2]
    assert before[3].get(timeout=1) == [root_id, None, 1]


def test_options_of_a_whole_hold_for_each_job_that_names_none(run):
    sig = chord([place.s(), place.s().set(priority=9)], chain(identity.s(), place.s()))
    header, last = run(chain(sig, place.s()).set(queue="canvas", priority=3)).parent, None
    while isinstance(header, AsyncResult):
        header, last = header.parent, header
    assert [each[1:] for each in header.get(timeout=1)] == [[3, "canvas", False], [9, "canvas", False]]
    assert last is not None


def test_how_celery_polls_for_the_end_of_a_header_may_be_said(run):
    polled = {"interval": 1.0, "max_retries": 3}
    header = [add.s(1, 1), add.s(2, 2)]
    assert run(chord(header, total.s()), **polled).get(timeout=1) == 6
    assert run(chain(chord(header, total.s(), **polled), add.s(1))).get(timeout=1) == 7
    assert run(chord(header, total.s()).set(**polled) | identity.s()).get(timeout=1) == 6
    assert chord(header, **polled)(total.s(), **polled).id
    assert "max_retries" not in "".join(Job.objects.values_list("options", flat=True))


def test_a_countdown_delays_the_jobs_that_come_first(database):
    result = (group(place.s(), place.s()) | identity.s()).apply_async(countdown=3600)
    run_jobs()
    assert not result.parent[0].ready()
    later = (group(place.s(), place.s()) | identity.s()).apply_async(countdown=0.01)

    def ended():
        run_jobs()
        return later.ready()

    wait_until(lambda: (get_broker().promote(), ended())[1])
    assert [each[3] for each in later.get()] == [True, True]


def test_a_retried_step_keeps_its_place(run, path):
    sig = chord([retried_once.s(1) | add.s(1), add.s(1, 1)], total.s())
    sig.link(echo_value.s(path))
    assert run(sig).get(timeout=1) == 4
    assert notes(path) == ["4"]


def test_the_result_of_an_ignored_task_is_handed_on_and_not_kept(database):
    result = run_queued(chain(unkept.s(1), add.s(1)))
    assert (result.get(timeout=1), Job.objects.get(pk=result.parent.id).result) == (2, None)
    assert result.parent.get(timeout=1) is None


def test_messages_of_later_steps_do_not_grow_with_the_whole(database):
    chain(*(group(add.s(1, 1) for _ in range(25)) for _ in range(10))).apply_async()
    sizes = [len(each.message.to_json()) for each in get_broker().peek("default")]
    assert max(sizes) < 4096
