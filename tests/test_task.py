"""Declaring tasks, and what a declared task can do where it is called."""

import asyncio
import inspect
from dataclasses import dataclass
from datetime import timedelta

import pytest

from djtasks import AsyncResult, Task, registry, send_task, shared_task
from djtasks.exceptions import DuplicateTask, MessageTooLarge, NotRegistered, Retry
from djtasks.models import Job
from djtasks.request import current_task
from djtasks.retries import backoff
from djtasks.testing import eager, run_jobs
from tests import tasks
from tests.executing import execute

pytestmark = pytest.mark.usefixtures("own_tasks")


# Declaring


def test_the_decorator_works_bare_and_with_parentheses():
    @shared_task
    def bare():
        return "bare"

    @shared_task()
    def called():
        return "called"

    assert (bare(), called()) == ("bare", "called")
    assert isinstance(bare, Task)
    assert isinstance(called, Task)


def test_the_default_name_is_module_and_function():
    assert tasks.add.name == "tests.tasks.add"


def test_an_explicit_name_is_taken():
    @shared_task(name="shop.sum")
    def add(x, y):
        return x + y

    assert registry.get("shop.sum") is add


def test_a_task_shows_name_and_docstring_of_its_function():
    @shared_task
    def documented():
        """What it does."""

    assert documented.__name__ == "documented"
    assert documented.__doc__ == "What it does."
    assert documented.__module__ == __name__
    assert repr(documented) == f"<@task: {__name__}.documented>"


def test_a_function_inside_a_function_can_be_a_task_and_be_made_anew():
    def make(number):
        @shared_task
        def inner():
            return number

        return inner

    first, second = make(1), make(2)
    assert (first(), second()) == (1, 2)
    assert registry.get(second.name) is second


def test_two_functions_of_one_name_are_an_error_that_names_both():
    @shared_task(name="twice")
    def one():
        pass

    with pytest.raises(DuplicateTask, match=r"'twice'.*\.one.*\.two"):

        @shared_task(name="twice")
        def two():
            pass


def test_two_functions_of_one_name_in_one_module_are_told_apart_by_their_lines():
    code = "from djtasks import shared_task\n@shared_task\ndef same(): pass\n@shared_task\ndef same(): return 2\n"
    with pytest.raises(DuplicateTask, match=r"line 2\).*line 4\)"):
        exec(code, {"__name__": "shop.tasks"})


def test_options_become_attributes():
    @shared_task(queue="mail", priority=3, max_retries=None, time_limit=5, rate_limit="10/m", ignore_result=True)
    def declared():
        pass

    assert (declared.queue, declared.priority, declared.max_retries) == ("mail", 3, None)
    assert (declared.time_limit, declared.rate_limit, declared.ignore_result) == (5, "10/m", True)


def test_the_defaults_are_those_of_celery():
    @shared_task
    def plain():
        pass

    assert (plain.max_retries, plain.default_retry_delay) == (3, 180)
    assert (plain.retry_backoff, plain.retry_backoff_max, plain.retry_jitter) == (False, 600, True)


def test_an_option_with_task_before_it_is_the_same_option():
    @shared_task(task_queue="mail", task_time_limit=7)
    def declared():
        pass

    assert (declared.queue, declared.time_limit) == ("mail", 7)


def test_an_unknown_option_becomes_an_attribute():
    @shared_task(team="billing")
    def declared():
        pass

    assert declared.team == "billing"


def test_a_bound_task_gets_itself_as_first_argument():
    @shared_task(bind=True)
    def bound(self, x):
        return self, x

    assert bound(1) == (bound, 1)
    assert list(inspect.signature(bound.run).parameters) == ["x"]


def test_a_base_class_keeps_its_state_between_jobs():
    class Connected(Task):
        opened = 0

        def connection(self):
            self.opened += 1
            return self.opened

    @shared_task(bind=True, base=Connected)
    def use(self):
        return self.connection()

    assert [execute(use).value for _ in range(3)] == [1, 2, 3]


def test_a_class_can_be_a_task():
    class Adding(Task):
        name = "adding"
        queue = "sums"

        def run(self, x, y):
            return x + y

    instance = registry.register(Adding())
    assert registry.get("adding") is instance
    assert instance(1, 2) == 3
    assert Adding().apply((3, 4)).get() == 7


def test_a_class_without_a_name_is_named_by_its_module():
    class Unnamed(Task):
        def run(self):
            pass

    assert Unnamed().name == f"{__name__}.Unnamed"


def test_registering_the_same_class_again_is_no_error():
    class Again(Task):
        name = "again"

        def run(self):
            pass

    registry.register(Again)
    registry.register(Again())


def test_a_task_without_run_says_so():
    class Empty(Task):
        name = "empty"

    registry.register(Empty)
    with pytest.raises(NotImplementedError, match=r"empty must define run"):
        Empty()()


# Calling it here


def test_calling_a_task_runs_it_here():
    assert tasks.add(2, 3) == 5


def test_outside_of_a_job_the_request_is_empty():
    assert tasks.add.request.id is None
    assert tasks.add.request.called_directly
    assert not current_task


def test_a_task_called_directly_knows_its_arguments_and_that_no_job_runs_it():
    @shared_task(bind=True)
    def look(self, x, y=0):
        return self.request.args, self.request.kwargs, self.request.id, self.request.called_directly, current_task.name

    assert look(1, y=2) == ((1,), {"y": 2}, None, True, look.name)


def test_a_task_called_inside_another_has_a_request_of_its_own_and_the_outer_one_gets_its_own_back():
    @shared_task(bind=True)
    def inner(self):
        return self.request.id, current_task.name

    @shared_task(bind=True)
    def outer(self):
        return inner(), (self.request.id, current_task.name)

    execution = execute(outer)
    assert execution.value == ((None, inner.name), (execution.message.id, outer.name))


def test_a_task_that_calls_itself_does_not_take_the_call_for_its_job():
    @shared_task(bind=True)
    def down(self, depth):
        return [self.request.id, *(down(depth - 1) if depth else [])]

    execution = execute(down, 2)
    assert execution.value == [execution.message.id, None, None]


def test_a_class_with_its_own_call_runs_its_jobs_through_it():
    class Counted(Task):
        calls = 0

        def __call__(self, *args, **kwargs):
            self.calls += 1
            return super().__call__(*args, **kwargs)

    @shared_task(bind=True, base=Counted)
    def counted(self):
        return self.request.id

    execution = execute(counted)
    assert execution.value == execution.message.id
    assert counted.calls == 1


def test_an_async_task_with_its_own_call_is_awaited():
    class Passing(Task):
        def __call__(self, *args, **kwargs):
            return super().__call__(*args, **kwargs)

    @shared_task(bind=True, base=Passing)
    async def later(self):
        await asyncio.sleep(0)
        return self.request.id

    execution = execute(later)
    assert execution.value == execution.message.id


def test_calling_an_async_task_gives_its_coroutine():
    assert asyncio.run(tasks.answer_later(5)) == 5


# Arguments


def test_wrong_arguments_are_a_type_error_at_the_caller():
    with pytest.raises(TypeError, match=r"tests\.tasks\.add\(\) cannot be called so: missing a required argument: 'y'"):
        tasks.add.delay(1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        tasks.add.apply_async((1, 2), {"z": 3})


def test_the_bound_self_is_no_argument_of_the_caller():
    with pytest.raises(TypeError, match="too many positional arguments"):
        tasks.progress.delay("self", "until")


def test_without_typing_the_job_fails_with_the_type_error():
    @shared_task(typing=False)
    def untyped(x):
        pass

    result = untyped.apply()
    assert result.failed()
    assert isinstance(result.result, TypeError)


def test_annotated_arguments_arrive_as_their_dataclass():
    @dataclass
    class Item:
        name: str

    @shared_task
    def take(item, *more, **named):
        return item, more, named

    take.run.__annotations__.update(item=Item, more=Item, named=Item)
    execution = execute(take, Item("a"), Item("b"), kwargs={"c": Item("c")})
    assert execution.value == (Item("a"), (Item("b"),), {"c": Item("c")})


# Limits


@pytest.mark.parametrize(
    ("declared", "called"),
    [
        ({"time_limit": 5, "soft_time_limit": 6}, {}),
        ({"time_limit": 5}, {"soft_time_limit": 6}),
        ({}, {"time_limit": 5, "soft_time_limit": 6}),
        ({"soft_time_limit": 6}, {"time_limit": 5}),
    ],
)
def test_a_soft_limit_above_the_hard_one_is_refused(declared, called):
    @shared_task(**declared)
    def limited():
        pass

    with pytest.raises(ValueError, match="soft_time_limit must be less than or equal to time_limit"):
        limited.apply_async(**called)


# Running it at once


def test_apply_runs_the_task_here_and_gives_its_result():
    result = tasks.add.apply((1, 2))
    assert (result.get(), result.state, result.ready(), result.successful()) == (3, "SUCCESS", True, True)
    assert (result.name, result.children, result.parent, result.traceback) == ("tests.tasks.add", [], None, None)
    assert repr(result) == f"<EagerResult: {result.id}>"


def test_apply_keeps_the_error_for_get():
    result = tasks.fail.apply()
    assert (result.state, result.failed()) == ("FAILURE", True)
    assert isinstance(result.get(propagate=False), ValueError)
    assert "in fail" in result.traceback
    with pytest.raises(ValueError, match="broken"):
        result.get()


def test_apply_with_throw_raises_the_error():
    with pytest.raises(ValueError, match="broken"):
        tasks.fail.apply(throw=True)


def test_apply_throws_where_the_setting_says_so(settings):
    settings.DJTASKS = {"TASK_EAGER_PROPAGATES": True}
    with pytest.raises(ValueError, match="broken"):
        tasks.fail.apply()
    assert tasks.fail.apply(throw=False).failed()


def test_apply_gives_what_a_worker_would_have_given():
    @shared_task
    def pair():
        return (1, (2, 3))

    assert pair.apply().get() == [1, [2, 3]]


def test_apply_fails_for_a_result_that_no_worker_could_store():
    result = tasks.unsendable.apply()
    assert result.failed()
    assert "the result is of type object" in str(result.result)


def test_apply_says_that_it_is_eager_and_takes_the_options():
    @shared_task(bind=True)
    def look(self):
        request = self.request
        return [request.is_eager, request.id, request.headers, request.retries, request.delivery_info["priority"]]

    result = look.apply(task_id="mine", headers={"h": 1}, retries=2, priority=7)
    assert result.get() == [True, "mine", {"h": 1}, 2, 7]


def test_apply_inside_apply_has_parent_and_root():
    @shared_task(bind=True)
    def ids(self):
        return self.request.id, self.request.parent_id, self.request.root_id

    @shared_task(bind=True)
    def middle(self):
        return self.request.id, ids.apply().get()

    @shared_task(bind=True)
    def top(self):
        return self.request.id, self.request.root_id, middle.apply().get()

    top_id, root_id, (middle_id, (_, parent_of_ids, root_of_ids)) = top.apply().get()
    assert (root_id, parent_of_ids, root_of_ids) == (top_id, middle_id, top_id)


def test_apply_runs_retries_at_once(tmp_path):
    assert tasks.succeed_at.apply((str(tmp_path / "tries"), 3), {"countdown": 3600}).get() == 2


def test_within_eager_delay_runs_the_task_and_raises_what_it_raises():
    with eager():
        assert tasks.add.delay(1, 2).get() == 3
        with pytest.raises(ValueError, match="broken"):
            tasks.fail.delay()
    with eager(propagates=False):
        assert tasks.fail.delay().failed()


def test_within_eager_all_doors_lead_to_a_run_at_once():
    with eager():
        assert send_task("tests.tasks.add", (1, 2)).get() == 3
        assert [each.get() for each in tasks.add.enqueue_many([(1, 1), {"x": 2, "y": 2}])] == [2, 4]
        assert tasks.add.delay_on_commit(2, 3).get() == 5
        assert asyncio.run(tasks.add.adelay(3, 3)).get() == 6
        with pytest.raises(NotRegistered, match=r"no\.such\.task"):
            send_task("no.such.task")


# Sending


def test_delay_sends_and_the_handle_knows_the_result(database):
    result = tasks.add.delay(1, y=2)
    assert (result.state, result.name) == ("PENDING", "tests.tasks.add")
    run_jobs()
    assert result.get(timeout=0) == 3


def test_the_awaitable_doors_send(transactional_db):
    async def send():
        return [await tasks.add.adelay(1, 2), await tasks.add.aapply_async((3, 4), queue="other")]

    first, second = asyncio.run(send())
    run_jobs()
    assert (first.get(timeout=0), second.get(timeout=0), second.queue) == (3, 7, "other")


def test_send_task_needs_no_task_of_that_name_here(database):
    result = send_task("elsewhere.tasks.mail", ["a"], {"b": 1}, queue="mail", ignore_result=True)
    row = Job.objects.get(pk=result.id)
    assert (row.task, row.args, row.kwargs, row.queue) == ("elsewhere.tasks.mail", '["a"]', '{"b":1}', "mail")
    assert result.get() is None


def test_send_task_uses_what_is_known_of_the_task(database):
    @shared_task(name="known", queue="special")
    def known(x):
        pass

    assert send_task("known", (1,)).queue == "special"
    with pytest.raises(TypeError, match="missing a required argument"):
        send_task("known")


def test_enqueue_many_sends_one_job_for_each_element(database):
    results = tasks.add.enqueue_many([(1, 2), [3, 4], {"x": 5, "y": 6}], queue="bulk")
    run_jobs()
    assert [each.get(timeout=0) for each in results] == [3, 7, 11]
    assert {each.queue for each in results} == {"bulk"}


def test_enqueue_many_of_nothing_sends_nothing(database):
    assert tasks.add.enqueue_many([]) == []


def test_enqueue_many_checks_all_arguments_before_it_sends(database):
    with pytest.raises(TypeError, match="missing a required argument"):
        tasks.add.enqueue_many([(1, 2), (3,)])
    assert not Job.objects.exists()


@pytest.mark.parametrize("call", ["text", b"bytes", 5])
def test_enqueue_many_refuses_what_is_no_list_of_arguments(call):
    with pytest.raises(TypeError, match="sequence of args or a mapping of kwargs"):
        tasks.raise_text.enqueue_many([call])


def test_enqueue_many_takes_no_id():
    with pytest.raises(ValueError, match="task_id names one job"):
        tasks.add.enqueue_many([(1, 2)], task_id="x")


# Inside


def test_retry_outside_of_a_job_raises_what_led_to_it():
    with pytest.raises(Retry, match="Task can be retried"):
        tasks.add.retry()
    with pytest.raises(ValueError, match="why"):
        tasks.add.retry(exc=ValueError("why"))


def test_update_state_outside_of_a_job_does_nothing():
    tasks.add.update_state(state="PROGRESS", meta={"done": 1})


def test_update_state_of_an_eager_job_does_nothing():
    @shared_task(bind=True)
    def report(self):
        self.update_state(state="PROGRESS", meta={"done": 1})

    assert report.apply().successful()


def test_update_state_passes_state_and_meta_on():
    @shared_task(bind=True)
    def report(self):
        self.update_state(state="PROGRESS", meta={"done": 1})
        self.update_state(meta=[2])

    said = []
    execute(report, report=lambda state, meta: said.append((state, meta)))
    assert said == [("PROGRESS", '{"done":1}'), (None, "[2]")]


def test_update_state_refuses_what_cannot_be_stored(settings):
    settings.DJTASKS = {"MAX_MESSAGE_BYTES": 100}
    with pytest.raises(TypeError, match="meta is of type object"):
        tasks.add.update_state(meta=object())
    with pytest.raises(MessageTooLarge):
        tasks.add.update_state(meta="x" * 100)
    for state in ("x" * 65, 5, "a\0b"):
        with pytest.raises(ValueError, match="state must be a text"):
            tasks.add.update_state(state=state)


def test_update_state_of_another_job_counts_while_that_one_runs(database, broker):
    other = tasks.add.delay(1, 2)
    waiting = tasks.add.delay(1, 2)
    broker.claim("default", limit=1, worker="one")
    tasks.add.update_state(task_id=other.id, state="HALF", meta=50)
    tasks.add.update_state(task_id=waiting.id, state="HALF", meta=50)
    assert (other.state, other.info) == ("HALF", 50)
    assert (waiting.state, waiting.info) == ("PENDING", None)


def test_a_task_gives_handles_on_its_jobs():
    handle = tasks.add.AsyncResult("some-id")
    assert handle == AsyncResult("some-id")
    assert handle.task_id == "some-id"


# Backoff


def test_backoff_doubles_up_to_its_maximum():
    assert [backoff(1, retries, 600, False) for retries in (0, 1, 2, 9, 10, 5000)] == [1, 2, 4, 512, 600, 600]
    assert backoff(3, 2, 600, False) == 12


def test_full_jitter_takes_anything_from_nothing_to_the_backoff():
    delays = [backoff(10, 2, 600, True) for _ in range(500)]
    assert 0 <= min(delays) < 10
    assert 30 < max(delays) <= 40


def test_expires_may_be_declared(database):
    @shared_task(expires=timedelta(minutes=5))
    def brief():
        pass

    row = Job.objects.get(pk=brief.delay().id)
    assert timedelta(minutes=4) < row.expires_at - row.created_at < timedelta(minutes=6)


def test_bind_without_a_parameter_for_the_task_is_an_error_that_says_so():
    with pytest.raises(TypeError, match="first parameter must be the task"):

        @shared_task(bind=True, name="tests.no_self")
        def no_self():
            pass


def test_arguments_that_are_no_list_are_an_error_that_says_so():
    with pytest.raises(TypeError, match="args must be a list or tuple"):
        tasks.add.apply_async(2, 3)
    with pytest.raises(TypeError, match="args must be a list or tuple"):
        tasks.add.apply_async("23")


def test_a_task_class_that_was_not_registered_says_how_to(own_tasks):
    class Report(Task):
        name = "tests.unregistered"

        def run(self):
            pass

    with pytest.raises(NotRegistered, match=r"registry\.register"):
        Report().delay()
