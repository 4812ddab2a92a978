"""Tasks that get several jobs in one call: what they say of each of them, here and now."""

import asyncio

import pytest

from djtasks import Batch, Task, Unique, control, current_task, publish, registry, shared_task, signals, states
from djtasks.batch_execution import BatchExecution
from djtasks.exceptions import Ignore, MaxRetriesExceededError, Retry
from djtasks.execution import Execution
from djtasks.message import Delivery
from djtasks.restraint import restraint_on

pytestmark = pytest.mark.usefixtures("own_tasks")


def declare(function, **options):
    return shared_task(name="shop.tasks.gather", **{"batch": Batch(), **options})(function)


def execution(task, *args, delivery=None, **options):
    return Execution(Delivery(publish.build(task.name, args, {}, options, task), "worker", 1, **(delivery or {})))


def run(task, *calls):
    """One call with a job for each of `calls`."""
    together = BatchExecution([each if isinstance(each, Execution) else execution(task, *each) for each in calls])
    together.run()
    return together.executions


def endings(executions):
    return [(each.outcome.state, each.outcome.result) for each in executions]


def doubled(requests):
    return [2 * each.args[0] for each in requests]


def test_the_function_is_called_once_with_the_requests_and_each_job_has_its_result():
    calls = []

    def gather(requests):
        calls.append([(each.id, each.args, each.kwargs) for each in requests])
        return doubled(requests)

    executions = run(declare(gather), (1,), (2,), (3,))
    assert endings(executions) == [(states.SUCCESS, "2"), (states.SUCCESS, "4"), (states.SUCCESS, "6")]
    assert calls == [[(each.message.id, [n], {}) for n, each in enumerate(executions, 1)]]


def test_none_is_none_for_all():
    assert endings(run(declare(lambda requests: None), (1,), (2,))) == [(states.SUCCESS, "null")] * 2


def test_what_it_raises_fails_all():
    def gather(requests):
        raise OSError("down")

    executions = run(declare(gather), (1,), (2,))
    assert [(each.outcome.state, each.outcome.failure.message) for each in executions] == [(states.FAILURE, "down")] * 2


def test_an_exception_among_the_results_fails_that_job_alone():
    executions = run(declare(lambda requests: [1, ValueError("bad"), Ignore()]), (1,), (2,), (3,))
    assert [each.outcome.state for each in executions] == [states.SUCCESS, states.FAILURE, states.IGNORED]
    assert executions[1].outcome.failure.kind == "ValueError"


@pytest.mark.parametrize("returned", [[1], [1, 2, 3], "ab", {"a": 1, "b": 2}], ids=repr)
def test_results_that_cannot_be_told_apart_fail_all(returned):
    executions = run(declare(lambda requests: returned), (1,), (2,))
    assert {each.outcome.state for each in executions} == {states.FAILURE}
    assert "batch function" in executions[0].outcome.failure.message


def test_a_result_that_cannot_be_stored_fails_its_job_alone():
    executions = run(declare(lambda requests: [object(), 2]), (1,), (2,))
    assert [each.outcome.state for each in executions] == [states.FAILURE, states.SUCCESS]


def test_a_retry_among_the_results_is_that_jobs():
    executions = run(declare(lambda requests: [Retry(when=7.0), 2]), (1,), (2,))
    assert [each.outcome.state for each in executions] == [states.RETRY, states.SUCCESS]
    following = executions[0].outcome.next
    assert (following.retries, following.countdown) == (1, 7.0)


def test_a_retry_too_many_fails():
    task = declare(lambda requests: [Retry(exc=OSError("down")), Retry()], max_retries=0)
    executions = run(task, (1,), (2,))
    assert [each.outcome.failure.kind for each in executions] == [
        "OSError",
        f"{MaxRetriesExceededError.__module__}.MaxRetriesExceededError",
    ]


def test_self_retry_tries_all_again_each_with_its_own_count():
    def gather(self, requests):
        raise self.retry(exc=OSError("down"), countdown=3, max_retries=1)

    task = declare(gather, bind=True)
    executions = run(task, (1,), execution(task, 2, retries=1))
    assert [each.outcome.state for each in executions] == [states.RETRY, states.FAILURE]
    assert (executions[0].outcome.next.countdown, executions[1].outcome.failure.message) == (3, "down")


def test_autoretry_for_counts_for_each_job():
    task = declare(
        lambda requests: [OSError("down"), ValueError("bad")], autoretry_for=(OSError,), default_retry_delay=5
    )
    executions = run(task, (1,), (2,))
    assert [each.outcome.state for each in executions] == [states.RETRY, states.FAILURE]
    assert executions[0].outcome.next.countdown == 5


def test_a_job_that_was_cancelled_has_no_part_in_the_call():
    task = declare(doubled)
    executions = run(task, (1,), execution(task, 2, delivery={"revoked": True}), (3,))
    assert endings(executions) == [(states.SUCCESS, "2"), (states.REVOKED, None), (states.SUCCESS, "6")]


def test_hooks_and_signals_are_each_jobs_own():
    seen = []

    class Base(Task):
        def before_start(self, task_id, args, kwargs):
            seen.append(("before", task_id, self.request.id))

        def on_success(self, retval, task_id, args, kwargs):
            seen.append((retval, task_id, self.request.id))

    task = declare(doubled, base=Base)

    @signals.task_postrun.connect
    def after(task_id, retval, **_more):
        seen.append(("after", task_id, retval))

    try:
        first, second = (each.message.id for each in run(task, (1,), (2,)))
    finally:
        signals.task_postrun.disconnect(after)
    assert seen == [
        ("before", first, first), ("before", second, second), (2, first, first), ("after", first, 2),
        (4, second, second), ("after", second, 4),
    ]  # fmt: skip


def test_the_call_is_that_of_no_job_alone():
    def gather(self, requests):
        return [(self.request.id, current_task.name, self.request.soft_time_limit) for _each in requests]

    task = declare(gather, bind=True, soft_time_limit=60)
    executions = run(task, (1,), execution(task, 2, soft_time_limit=5))
    assert executions[0].value == (None, "shop.tasks.gather", 5)


def test_a_call_of_its_own_class_is_the_way_in():
    class Base(Task):
        def __call__(self, requests):
            return [each + 1 for each in super().__call__(requests)]

    assert endings(run(declare(doubled, base=Base), (1,), (2,))) == [(states.SUCCESS, "3"), (states.SUCCESS, "5")]


def test_an_async_function_gets_them_too():
    async def gather(requests):
        await asyncio.sleep(0)
        return doubled(requests)

    task = declare(gather)
    assert endings(run(task, (1,), (2,))) == [(states.SUCCESS, "2"), (states.SUCCESS, "4")]
    together = BatchExecution([execution(task, 1), execution(task, 2)])
    assert together.prepare()
    asyncio.run(together.acall())
    assert [each.result for each in together.conclude()] == ["2", "4"]


def test_one_that_runs_at_once_is_a_batch_of_one(settings):
    task = declare(lambda requests: [ValueError("bad") if each.args == [0] else 2 * each.args[0] for each in requests])
    assert task.apply((4,)).get() == 8
    assert task.apply((0,)).state == states.FAILURE
    settings.DJTASKS = {**settings.DJTASKS, "TASK_ALWAYS_EAGER": True}
    assert task.delay(4).get() == 8


def test_a_retry_that_runs_at_once_runs_again():
    def gather(requests):
        return [Retry(when=60) if each.retries < 2 else each.retries for each in requests]

    assert declare(gather).apply((1,)).get() == 2


def test_a_class_may_say_it_too():
    class Gather(Task):
        name = "shop.tasks.gather"
        batch = Batch(size=5)

        def run(self, requests):
            return doubled(requests)

    registry.register(Gather())
    assert endings(run(registry.get("shop.tasks.gather"), (1,), (2,))) == [(states.SUCCESS, "2"), (states.SUCCESS, "4")]


def test_its_jobs_are_sent_with_any_arguments():
    assert publish.build("x", (1, "b"), {"c": 3}, {}, declare(doubled)).args == '[1,"b"]'
    declare(doubled).check_arguments((1, 2, 3), {"some": "thing"})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rate_limit": "10/m"}, "rate_limit and max_concurrency count jobs"),
        ({"max_concurrency": 1}, "rate_limit and max_concurrency count jobs"),
        ({"unique": Unique(replace=True)}, "cannot be replaced"),
        ({"unique": Unique(key="account")}, "a function of the arguments"),
        ({"batch": 100}, r"batch is djtasks\.Batch"),
    ],
    ids=str,
)
def test_what_makes_no_sense_with_a_batch_is_refused_when_it_is_declared(options, words):
    with pytest.raises(ValueError, match=words):
        declare(doubled, **options)


@pytest.mark.parametrize(
    "fields",
    [{"size": 0}, {"size": 1001}, {"size": 2.5}, {"size": True}, {"wait": -1}, {"wait": "1"}, {"wait": 4000}],
    ids=str,
)
def test_a_batch_has_a_size_and_a_wait(fields):
    with pytest.raises(ValueError, match="Batch"):
        Batch(**fields)


def test_no_rate_counts_for_it(settings):
    settings.DJTASKS = {**settings.DJTASKS, "TASK_DEFAULT_RATE_LIMIT": "1/m"}
    assert restraint_on(declare(doubled), {"shop.tasks.gather": "1/h"}) is None
    with pytest.raises(ValueError, match="in batches"):
        control.set_rate("shop.tasks.gather", "1/m")


def test_it_is_not_mapped():
    for call in (declare(doubled).map, declare(doubled).starmap, lambda it: declare(doubled).chunks(it, 2)):
        with pytest.raises(TypeError, match="enqueue_many"):
            call([1, 2])
