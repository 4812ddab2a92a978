"""What the handles on canvas tell, wait for and raise."""

import asyncio
from contextlib import suppress

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import DatabaseError, connections, transaction
from django.db.models import Q

from djtasks import ResultSet, chain, chord, exceptions, group, plan
from djtasks.canvas import streaming
from djtasks.models import Job, JobGroup
from djtasks.result import AsyncResult, EagerResult, GroupResult, result_from_tuple
from djtasks.testing import eager, run_jobs
from tests.canvas.tasks import (
    Expected,
    add,
    echo,
    fail,
    follows,
    identity,
    route_for_other_queues_raises,
    starts_a_chain,
    starts_a_group,
    starts_in_later,
    starts_in_later_and_fails,
    total,
    unkept,
)
from tests.canvas.ways import nothing_is_left, run_here, run_queued
from tests.waiting import wait_until

pytestmark = pytest.mark.parametrize("database", ["sqlite", "redis"], indirect=True)


def test_a_group_result_counts_and_waits(database):
    result = group(add.s(i, i) for i in range(4)).apply_async()
    assert (result.ready(), result.waiting(), result.completed_count(), len(result)) == (False, True, 0, 4)
    with pytest.raises(exceptions.TimeoutError, match=r"4 of 4 had not ended in 0\.05 seconds"):
        result.get(timeout=0.05)
    run_jobs()
    assert (result.ready(), result.successful(), result.failed(), result.completed_count()) == (True, True, False, 4)
    assert result.get() == result.join() == result.join_native() == [each.get() for each in result] == [0, 2, 4, 6]
    assert result[1].get() == 2
    assert [str(result), hash(result)] == [result.id, hash(result.id)]
    assert result == result.id


def test_waiting_for_many_costs_few_queries(database, django_assert_max_num_queries):
    result = run_queued(group(identity.s(i) for i in range(300)))
    with django_assert_max_num_queries(4, connection=connections[database]):
        assert result.get() == list(range(300))


def test_a_callback_gets_each_value(database):
    result = run_queued(group(identity.s(i) for i in range(3)))
    seen = []
    assert result.join(callback=lambda job_id, value: seen.append((job_id, value))) == []
    assert seen == [(each.id, number) for number, each in enumerate(result)]
    assert sorted(value for _job_id, value in result.iterate()) == [0, 1, 2]


def test_the_first_error_is_raised_without_waiting_for_the_rest(database):
    result = group(fail.s(), identity.s(1).set(countdown=3600)).apply_async()
    run_jobs()
    with pytest.raises(Expected):
        result.get(timeout=5)
    assert (result.failed(), result.ready()) == (True, False)


def test_without_propagating_errors_are_values(database):
    values = run_queued(group(fail.s(), identity.s(1))).get(propagate=False)
    assert [type(values[0]), values[1]] == [Expected, 1]


def test_a_group_is_saved_and_restored(database):
    result = run_queued(chain(identity.s(1), group(add.s(1), add.s(2))))
    result.save()
    restored = GroupResult.restore(result.id)
    assert restored == result
    assert (restored.get(), restored.parent.get()) == ([2, 3], 1)
    result.delete()
    assert GroupResult.restore(result.id).get() == [2, 3]  # by the rows of its members
    assert GroupResult.restore("nobody-knows-it") is None


def test_an_empty_group_is_saved_and_restored(database):
    result = group([]).apply_async()
    result.save()
    assert (GroupResult.restore(result.id).results, result.get(), result.ready()) == ([], [], True)


def test_results_travel_as_tuples(database):
    result = run_queued(identity.s(1) | group(add.s(1), add.s(2)) | total.s())
    rebuilt = result_from_tuple(result.as_tuple())
    assert rebuilt == result
    assert [rebuilt.get(), rebuilt.parent.get(), rebuilt.parent.parent.get()] == [5, [2, 3], 1]
    assert result_from_tuple(result) is result
    assert result_from_tuple(result.id) == result
    assert result.as_list()[0] == result.id


def test_a_task_that_returns_a_result_gives_its_tuple(database):
    inner = result_from_tuple(run_queued(starts_a_chain.s()).get(timeout=1))
    assert (inner.get(timeout=1), inner.parent.get(timeout=1)) == (6, 3)


def test_children_are_what_a_job_sent(database):
    result = run_queued(identity.s(1) | group(add.s(1), add.s(2)) | total.s())
    first = result.parent.parent
    (children,) = first.children
    assert isinstance(children, GroupResult)
    assert set(children.results) == set(result.parent.results)
    last = next(each for each in result.parent if each.children)
    assert last.children == [result]
    linked = run_queued(add.s(1, 1).set(link=add.s(2)))
    assert [each.get() for each in linked.children] == [4]
    assert [value for _each, value in linked.collect()] == [2, 4]


def test_forgetting_and_revoking_hold_for_all_members(database):
    result = run_queued(group(identity.s(1), identity.s(2)))
    result.forget()
    assert not Job.objects.exists()
    waiting = group(identity.s(1), identity.s(2)).apply_async()
    waiting.revoke()
    run_jobs()
    assert [each.state for each in waiting] == ["REVOKED", "REVOKED"]


def test_forgetting_and_revoking_many_costs_few_queries(database, django_assert_max_num_queries):
    result = group(identity.s(number) for number in range(1000)).apply_async()
    with django_assert_max_num_queries(20, using=database):
        result.revoke()
    run_jobs()
    with django_assert_max_num_queries(8, using=database):
        result.forget()
    assert not Job.objects.exists()


def test_a_result_set_takes_any_results(database):
    results = ResultSet([add.delay(1, 1), add.delay(2, 2)])
    results.add(group(add.s(3, 3)).apply_async())
    results.add(results[0])
    run_jobs()
    assert results.get(timeout=1) == [2, 4, [6]]
    results.discard(results[2])
    assert (len(results), results.ready(), bool(ResultSet())) == (2, True, True)
    with pytest.raises(KeyError):
        results.remove("nobody")


def test_errors_come_as_their_own_class_with_the_remote_traceback(database):
    result = run_queued(chord([fail.s(7)], identity.s()))
    with pytest.raises(Expected) as caught:
        result.get(timeout=1)
    assert caught.value.args == ("it was to fail", 7)
    assert "in fail" in "".join(caught.value.__notes__)
    assert type(result.result) is exceptions.ChordError
    with pytest.raises(exceptions.ChordError, match=f"Dependency {result.parent[0].id} raised .*Expected"):
        AsyncResult(result.id).get()


@pytest.mark.parametrize("run", [run_here, run_queued])
def test_the_error_of_a_body_shows_the_one_of_the_member_as_it_was_raised(database, run):
    result = run(chord([fail.s((1,), "x"), identity.s(1)], identity.s()))
    assert str(result.result).endswith("raised tests.canvas.tasks.Expected('it was to fail', (1,), 'x')")


def test_of_ignored_results_get_gives_none(database):
    result = unkept.delay(1)
    run_jobs()
    assert (result.get(timeout=1), result.state) == (None, "PENDING")
    assert run_queued(group(unkept.s(1), unkept.s(2))).get(timeout=1) == [None, None]


def test_results_can_be_awaited(database, start_worker):
    async def compose():
        result = await chain(add.s(1, 1), add.s(2)).aapply_async()
        grouped = await group(add.s(1, 1), add.s(2, 2)).adelay()
        try:
            return await result.aget(timeout=20), await grouped.aget(timeout=20)
        finally:
            await sync_to_async(connections.close_all)()  # of the thread that asked the database

    start_worker("-c", "1")
    assert asyncio.run(compose()) == (4, [2, 4])


def test_in_async_code_a_handle_tells_what_was_seen_last(database):
    job = add.delay(1, 2)

    async def look(result):
        try:
            with pytest.raises(SynchronousOnlyOperation, match=r"await result\.arefresh"):
                _ = result.state
            await result.arefresh()
            return result.state, result.ready(), result.result
        finally:
            await sync_to_async(connections.close_all)()

    assert asyncio.run(look(AsyncResult("nobody knows it"))) == ("PENDING", False, None)
    assert asyncio.run(look(AsyncResult(job.id))) == ("PENDING", False, None)
    run_jobs()
    assert asyncio.run(look(AsyncResult(job.id))) == ("SUCCESS", True, 3)


def test_a_handle_that_was_refreshed_looks_again_where_it_can(database):
    job = add.delay(1, 2)

    async def refresh():
        await job.arefresh()
        await sync_to_async(connections.close_all)()

    asyncio.run(refresh())
    run_jobs()
    assert job.state == "SUCCESS"


def test_eager_results_have_the_same_shape(database):
    result = run_here(identity.s(1) | group(add.s(1), add.s(2)) | total.s())
    assert (type(result), result.get(), result.parent.get(), result.parent.parent.get()) == (EagerResult, 5, [2, 3], 1)
    assert (result.state, result.ready(), asyncio.run(result.aget())) == ("SUCCESS", True, 5)


def test_eager_mode_runs_canvas_at_once(database):
    with eager():
        result = (add.s(1, 1) | group(add.s(1), add.s(2)) | total.s()).delay()
        assert (type(result), result.get()) == (EagerResult, 7)
        assert group(add.s(1, 1), add.s(2, 2)).delay().get() == [2, 4]
        with pytest.raises(Expected):
            (add.s(1, 1) | fail.s()).delay()
        assert add.apply_async((1, 1), link=add.s(1)).get() == 2
    with eager(propagates=False):
        failed = (add.s(1, 1) | fail.s() | add.s(1)).delay()
        assert (failed.state, failed.parent.state) == ("FAILURE", "FAILURE")
    assert not Job.objects.exists()


def test_a_task_starts_a_canvas_in_eager_mode(database):
    with eager():
        assert [each.get() for each in (starts_a_group.delay(), starts_a_group.si().apply())] == [None, None]
        assert (starts_a_group.si() | identity.si(1)).delay().get() == 1


def test_what_a_task_starts_in_eager_mode_are_its_children(database):
    with eager():
        chained, grouped = (starts_a_chain.si() | identity.si(1)).delay().parent, starts_a_group.delay()
    assert [child.get() for child in grouped.children] == [[3, 7]]
    assert sorted(child.get() for child in chained.children) == [1, 3]
    (first,) = [child for child in chained.children if child.get() == 3]
    assert [child.get() for child in first.children] == [6]


def test_a_chain_may_be_longer_than_python_recurses(database):
    sig = chain(identity.s(0), *(add.s(1) for _ in range(1050)))
    result = sig.apply_async()
    with pytest.raises(exceptions.TimeoutError):
        result.get(timeout=0.01)
    assert run_here(sig).get() == 1050


# Transactions


def test_a_canvas_is_part_of_the_transaction(database):
    class Undone(Exception):
        pass

    with suppress(Undone), transaction.atomic(using=database):
        (group(add.s(1, 1), add.s(2, 2)) | total.s()).delay()
        raise Undone
    assert (run_jobs(), JobGroup.objects.count()) == (0, 0)
    with transaction.atomic(using=database):
        result = (group(add.s(1, 1), add.s(2, 2)) | total.s()).delay()
        with pytest.raises(RuntimeError, match="inside a transaction that has not committed"):
            result.get(timeout=1)
        with pytest.raises(RuntimeError, match="inside a transaction that has not committed"):
            result.parent.get(timeout=1)
    run_jobs()
    assert result.get(timeout=1) == 6


def test_a_canvas_waits_for_the_transactions_of_other_databases(database):
    other = "mariadb"
    if other not in connections.settings:
        pytest.skip("no MariaDB")
    with transaction.atomic(using=other):
        result = (group(add.s(1, 1), add.s(2, 2)) | total.s()).delay()
        assert (run_jobs(on_commit=False), JobGroup.objects.count()) == (0, 0)
    run_jobs()
    assert result.get(timeout=1) == 6


# Headers that are sent as they come


def test_a_generator_that_lets_nobody_wait_is_sent_in_one_transaction(database, monkeypatch):
    monkeypatch.setattr(plan, "close", fail)  # as if the sender died before it could close what it had opened
    result = chord((add.s(i, i) for i in range(3)), total.s())()
    assert [(each.size, each.remaining) for each in JobGroup.objects.all()] == [(3, 3)]
    run_jobs()
    assert result.get(timeout=1) == 6


def test_a_slow_generator_is_sent_while_it_goes_on(database, start_worker, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "SLOW", 0.0)
    path = tmp_path / "notes"

    def header():
        for number in range(3):
            yield echo.si(str(path), number)
            if number:
                wait_until(lambda done=number - 1: path.exists() and f"{done}\n" in path.read_text())

    start_worker("-c", "1")
    result = chord(header(), total.s()).apply_async()
    assert (result.get(timeout=20), len(result.parent)) == (3, 3)


@pytest.mark.parametrize("calls_from_header", [False, True])
def test_members_that_come_later_are_as_those_that_were_there_at_once(
    database, monkeypatch, settings, tmp_path, calls_from_header
):
    monkeypatch.setattr(streaming, "SLOW", 0.0)
    settings.DJTASKS = {**settings.DJTASKS, "TASK_ALLOW_ERROR_CB_ON_CHORD_HEADER": calls_from_header}
    path = tmp_path / "notes"

    def header():
        for _ in range(3):
            yield chain(add.s(1), group(identity.s(), fail.s()))

    def jobs_of(sig):
        path.write_text("")
        result = sig.set(queue="first").apply_async(priority=3, link_error=echo.si(str(path), "failed"))
        run_jobs()
        jobs = Job.objects.filter(Q(pk=result.id) | Q(root_id=Job.objects.get(pk=result.id).root_id))
        fields = jobs.exclude(task=echo.name).values_list("task", "queue", "priority", "state", "result")
        return path.read_text(), sorted(fields, key=str)

    notes, jobs = jobs_of(chord(header(), identity.s(), args=(1,)))
    assert (notes, jobs) == jobs_of(chord(list(header()), identity.s(), args=(1,)))
    assert (notes.count("failed") > 1, len(jobs)) == (calls_from_header, 13)
    assert {each[1:3] for each in jobs} == {("first", 3)}


def test_a_generator_that_raises_fails_the_body_once_what_it_gave_has_ended(database, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "SLOW", 0.0)
    path = tmp_path / "notes"

    def header():
        yield echo.si(str(path), "member")
        yield echo.si(str(path), "member")
        raise Expected("in the generator")

    with pytest.raises(Expected, match="in the generator"):
        chord(header(), total.s()).on_error(echo.si(str(path), "failed")).apply_async()
    run_jobs()
    body = Job.objects.get(task=total.name)
    assert (body.state, body.exception) == ("FAILURE", "djtasks.exceptions.ChordError")
    assert path.read_text() == "member\nmember\nfailed\n"
    assert nothing_is_left()


def test_a_generator_that_raises_in_a_transaction_that_is_rolled_back_leaves_nothing(database, monkeypatch):
    monkeypatch.setattr(streaming, "SLOW", 0.0)

    def header():
        yield identity.s(1)
        Job.objects.raw("SELECT no_such_column FROM djtasks_job")[0]

    with pytest.raises(DatabaseError), transaction.atomic(using=database):
        chord(header(), total.s()).apply_async()
    run_jobs()
    assert not Job.objects.exists()
    assert not JobGroup.objects.exists()
    assert nothing_is_left()


def test_what_is_frozen_gives_the_same_results_each_time_that_it_is_sent(database):
    sig = group(identity.s(1), chain(identity.s(2), group(identity.s(), identity.s())))
    sig.freeze()
    assert [run_queued(sig).get(timeout=1) for _ in range(2)] == [[1, [2, 2]]] * 2
    assert Job.objects.filter(task=identity.name).count() == 4


def test_members_that_add_the_next_member_may_go_on_for_long(database):
    result = run_queued(chord([follows.s(800), identity.s(0)], identity.s()))
    assert result.get(timeout=1) == [800, 0, *range(799, -1, -1)]


def test_a_header_of_a_generator_can_be_sent_again(database):
    sig = chord((add.s(i, i) for i in range(5)), total.s())
    assert [run_queued(sig).get(timeout=1), run_queued(sig).get(timeout=1)] == [20, 20]
    assert chord(add.s(i, i) for i in range(3))(total.s()).parent is not None


def test_a_group_of_ten_thousand_is_sent_in_bulk(database):
    sig = group(identity.s(i) for i in range(10_000)) | total.s()
    result = sig.delay()
    assert (len(result.parent), JobGroup.objects.get().remaining) == (10_000, 10_000)


def test_children_that_wait_in_their_queue_are_there_once_the_job_has_ended(database):
    spread = identity.s(1) | group(add.s(i).set(queue="later") for i in range(3)) | total.s().set(queue="last")
    result = spread.delay()
    first = result.parent.parent
    run_jobs("default")
    (members,) = first.children
    assert (members.id, set(members.results)) == (result.parent.id, set(result.parent.results))
    run_jobs("later")
    assert [each.children for each in result.parent if each.children] == [[result]]
    run_jobs()
    assert sorted(value for _each, value in first.collect() if isinstance(value, int)) == [1, 1, 2, 3, 6]


def test_what_a_task_has_sent_before_it_failed_is_its_child_and_no_child_of_those_that_never_ran(database):
    result = chain(starts_in_later_and_fails.si(), identity.s(), identity.s()).delay()
    run_jobs("default")
    known = set(Job.objects.exclude(queue="later").values_list("pk", flat=True))
    started = [[each.id for each in job.children if each.id not in known] for job in (result.parent.parent, result)]
    assert [len(ids) for ids in started] == [1, 0]


def test_what_a_task_has_sent_is_its_child_though_its_next_step_cannot_be_sent(database, settings):
    result = chain(starts_in_later.si(), add.si(1, 1)).delay()
    settings.DJTASKS = {**settings.DJTASKS, "TASK_ROUTES": route_for_other_queues_raises}
    run_jobs("default")
    assert result.parent.state == "FAILURE"
    assert len([each for each in result.parent.children if each.id != result.id]) == 1


def test_what_a_task_sends_is_its_child_while_that_waits(database):
    started = starts_in_later.delay()
    run_jobs("default")
    (child,) = started.children
    assert (child.state, child.id) == ("PENDING", started.get()[0][0])
