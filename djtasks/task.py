"""The task: sent with `delay` and `apply_async`, run by `Execution`; it may ask for its own retry."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final, Generic, ParamSpec, TypeVar, Unpack

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.db import transaction

from djtasks import batches, eager, encoding, publish, registry, restraint, unique
from djtasks.canvas import Signature, chain, signature
from djtasks.canvas.composable import Composable
from djtasks.canvas.normal import frozen, single
from djtasks.conf import settings
from djtasks.exceptions import (
    ImproperlyConfigured,
    MaxRetriesExceededError,
    MessageTooLarge,
    NotRegistered,
    Replaced,
    Retry,
)
from djtasks.failure import ErrorInfo
from djtasks.limits import UNLIMITED, Unlimited
from djtasks.masking import decorated_names, masked_call
from djtasks.message import Message
from djtasks.models import Job
from djtasks.parameters import Parameters
from djtasks.publish import TaskOptions
from djtasks.request import Request, Running, current_job, running
from djtasks.result import AsyncResult, EagerResult, handle_on
from djtasks.retries import ErrorClasses, automatic_options, is_tried_again, next_try

P = ParamSpec("P")
R = TypeVar("R")
Handle = AsyncResult  # the class, where `Task.AsyncResult` has its name

LONGEST_STATE: Final = 64  # characters of a state that `update_state` sets


class Task(Composable, Generic[P, R]):
    """A declared function. One instance a process: attributes stay between jobs.

    Options are attributes of the class. Durations are seconds; None means the setting's value.
    """

    name: str = ""
    origin: str = ""  # the function or class it was made of, for errors
    queue: str | None = None
    priority: int | None = None
    ignore_result: bool | None = None
    acks_late: bool | None = None
    max_retries: int | None = 3  # None: for ever
    default_retry_delay: float = 180
    autoretry_for: ErrorClasses = ()
    dont_autoretry_for: ErrorClasses = ()
    retry_backoff: bool | float = False  # True is 1 second, doubled at each retry
    retry_backoff_max: float = 600
    retry_jitter: bool = True  # full: anything from 0 to the backoff
    retry_kwargs: Mapping[str, Any] = {}
    rate_limit: str | float | None = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    expires: float | timedelta | datetime | None = None
    track_started: bool | None = None
    typing: bool = True
    pydantic: bool = False
    throws: ErrorClasses = ()
    rate_limit_key: Any = None  # the name of an argument, or a function of the arguments
    max_concurrency: int | None = None  # jobs at a time, over all workers
    max_concurrency_key: Any = None
    batch: batches.Batch | None = None  # djtasks.Batch(…): the function gets the requests of several jobs
    unique: Any = None  # True, or djtasks.Unique(…): one job at a time with the same arguments
    schedule: Any = None
    store_arguments: bool = True
    log_level: int = logging.INFO  # of the line about a success
    sensitive_arguments: Sequence[str] = ()  # parameters that nobody is shown, besides TASK_SENSITIVE_ARGUMENTS

    MaxRetriesExceededError = MaxRetriesExceededError

    def __init__(self) -> None:
        cls = type(self)
        self.name = self.name or f"{cls.__module__}.{cls.__name__}"
        self.origin = self.origin or f"{cls.__module__}.{cls.__qualname__}"
        try:
            signature = inspect.signature(self.run)
        except ValueError:
            raise TypeError(f"{self.origin} has bind=True, so its first parameter must be the task (self).") from None
        self._parameters = Parameters(signature)
        if (hidden := decorated_names(self.run)) is not None:  # Django's sensitive_variables
            self.sensitive_arguments = (*self.sensitive_arguments, *(hidden or signature.parameters))
        restraint.check(self)
        batches.check(self)
        self._converters: dict[str, encoding.Converter] | None = None
        if self.batch is not None:
            self._parameters, self._converters = Parameters(batches.ANY_CALL), {}
        unique.unique_of(self)
        self.is_async: Final = iscoroutinefunction(self.run)
        self._has_own_call = cls.__call__ is not Task.__call__

    def run(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """What the task does."""
        raise NotImplementedError(f"Task {self.name} must define run().")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it here and now; of an `async def` task, the coroutine.

        `request` is an empty one meanwhile, but in a class whose own `__call__` comes here by `super()`.
        """
        if self.is_async or self._is_entered():
            return self.run(*args, **kwargs)
        with self._called_directly(args, kwargs):
            return self.run(*args, **kwargs)

    def _is_entered(self) -> bool:
        """Whether this call is the job's own, made by `__call__` of a class derived from Task."""
        now = running.get()
        if now is None or now.task is not self or now.request is not now.job or now.request.entered:
            return False
        now.request.entered = True
        return self._has_own_call

    @contextmanager
    def _called_directly(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[None]:
        token = running.set(Running(self, Request(args=args, kwargs=kwargs), current_job()))
        try:
            yield
        finally:
            running.reset(token)

    @property
    def parameters(self) -> inspect.Signature:
        """What it may be called with. (`signature` is the canvas's.)"""
        return self._parameters.signature

    def __repr__(self) -> str:
        return f"<@task: {self.name}>"

    # Sending

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send it with these arguments. Raises what `apply_async` does."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Unpack[TaskOptions]
    ) -> AsyncResult[R]:
        """Send it with these arguments and options, e.g. `countdown` (seconds) or `eta` (aware time).

        Raises TypeError for arguments that do not fit the function or that JSON cannot carry,
        ValueError for options that make no sense, MessageTooLarge, BrokerUnavailable.
        """
        if self.typing:
            self.check_arguments(args or (), kwargs or {})
        if settings.TASK_ALWAYS_EAGER:
            return self.apply(args, kwargs, **options)
        message = self._message(args, kwargs, options)
        holders: dict[str, str] = {}
        return handle_on(message, publish.publish([message], using=options.get("using"), holders=holders), holders)

    def delay_on_commit(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """`delay` once the open transaction on the default database has committed; at once if none is open."""
        if settings.TASK_ALWAYS_EAGER:
            return self.delay(*args, **kwargs)
        if self.typing:
            self.check_arguments(args, kwargs)
        message = self._message(args, kwargs, {})
        sent: list[Message] = []
        handle: AsyncResult[R] = AsyncResult(message.id, name=self.name, committed=lambda: bool(sent))

        def send() -> None:
            holders: dict[str, str] = {}
            publish.publish([message], holders=holders)
            sent.append(message)
            handle.id = holders.get(handle.id, handle.id)

        transaction.on_commit(send)
        return handle

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """`delay`, awaitable."""
        return await self.aapply_async(args, kwargs)

    async def aapply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Unpack[TaskOptions]
    ) -> AsyncResult[R]:
        """`apply_async`, awaitable."""
        return await sync_to_async(self.apply_async)(args, kwargs, **options)

    def enqueue_many(
        self, calls: Iterable[Sequence[Any] | Mapping[str, Any]], **options: Unpack[TaskOptions]
    ) -> list[AsyncResult[R]]:
        """Send one job for each element (a sequence of args, or a mapping of kwargs), many a round trip.

        `options` hold for all. Raises as `apply_async`; arguments are checked before anything is sent.
        """
        if options.get("task_id") is not None:
            raise ValueError("task_id names one job; enqueue_many sends several.")
        split = [_split(call) for call in calls]
        if self.typing:
            for args, kwargs in split:
                self.check_arguments(args, kwargs)
        if settings.TASK_ALWAYS_EAGER:
            return [self.apply(args, kwargs, **options) for args, kwargs in split]
        messages = [self._message(args, kwargs, options) for args, kwargs in split]
        holders: dict[str, str] = {}
        committed = publish.publish(messages, using=options.get("using"), holders=holders)
        return [handle_on(message, committed, holders) for message in messages]

    def apply(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> EagerResult[R]:
        """Run it here as a worker would, retries included (at once, without their delay).

        `throw=True` raises the task's exception, as does `TASK_EAGER_PROPAGATES`.
        """
        throw = options.pop("throw", None)
        if registry.find(self.name) is not self:
            registry.register(self)
        message = self._message(args, kwargs, options)
        result: EagerResult[R] = eager.apply_message(message, self.name)
        if settings.TASK_EAGER_PROPAGATES if throw is None else throw:
            result.get()
        return result

    def check_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise TypeError unless the function can be called so."""
        is_plain = type(args) in (tuple, list) and type(kwargs) is dict  # what asks no abstract class
        if not is_plain and not _could_be_given(args, kwargs):
            raise TypeError(
                f"{self.name}: args must be a list or tuple and kwargs a dict, not {args!r} and {kwargs!r}."
            )
        try:
            self._parameters.check(args, kwargs)
        except TypeError as error:
            raise TypeError(f"{self.name}() cannot be called so: {error}") from None

    def AsyncResult(self, task_id: str) -> Handle[R]:
        """The handle on a job of this task."""
        return AsyncResult(task_id, name=self.name)

    def _message(self, args: Any, kwargs: Any, options: Mapping[str, Any]) -> Message:
        if options.get("ignore_result") is None and self.ignores_result:
            options = {**options, "ignore_result": True}
        if registry.find(self.name) is None:
            raise NotRegistered(
                f"The task {self.name} is not registered, so no worker knows it: "
                f"after its class, write registry.register({type(self).__name__})."
            )
        return publish.build(self.name, args, kwargs, options, self)

    # Inside a run

    @property
    def request(self) -> Request:
        """The running job; an empty one outside of a job of this task."""
        now = running.get()
        return now.request if now is not None and now.task is self else Request()

    def update_state(self, task_id: str | None = None, state: str | None = None, meta: Any = None) -> None:
        """Say how far the running job is; seen as `AsyncResult.state` and `.info` within a moment.

        `meta` is anything JSON can carry. `task_id` names another job, if it runs. Outside a job,
        and in an eager one, it does nothing. Raises TypeError for a meta that cannot be carried,
        MessageTooLarge, ValueError for a state that is no short text.
        """
        text = encoding.encode(meta, name="meta")
        if len(text) > settings.MAX_MESSAGE_BYTES:
            raise MessageTooLarge(f"meta has {len(text)} bytes; MAX_MESSAGE_BYTES is {settings.MAX_MESSAGE_BYTES}.")
        if state is not None and not (isinstance(state, str) and state.isprintable() and len(state) <= LONGEST_STATE):
            raise ValueError(f"state must be a text of up to {LONGEST_STATE} characters, not {state!r:.200}.")
        request = self.request
        if task_id is not None and task_id != request.id:
            Job.objects.running().filter(pk=task_id).update(custom_state=state, meta=text)
        elif request.report is not None:
            request.report(state, text)

    def retry(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """Run the same job again later, `countdown` seconds (default `default_retry_delay`) from now.

        args or kwargs given here take the place of the old ones, as do other options of `apply_async`;
        what is not given stays. Raises Retry (or returns it, with `throw=False`, to be raised);
        raises `exc`, or MaxRetriesExceededError, when `max_retries` are used up.
        """
        request = self.request
        if request.message is None and request.called_directly:  # nobody can run it again
            raise exc or Retry("Task can be retried", None)
        if request.message is None:  # of a batch: each of its jobs says so for itself
            error = Retry(
                exc=exc, when=eta if countdown is None else countdown, sig={"max_retries": max_retries, **options}
            )
            if throw:
                raise error from exc
            return error
        limit = max_retries if max_retries is not None else request.options.get("max_retries", self.max_retries)
        if limit is not None and request.retries >= limit:
            args_shown, kwargs_shown = masked_call(self, request.args, request.kwargs)
            raise exc or MaxRetriesExceededError(
                f"Can't retry {self.name}[{request.id}] args:{args_shown} kwargs:{kwargs_shown}",
                task_args=request.args,
                task_kwargs=request.kwargs,
            )
        if eta is None and countdown is None:
            countdown = self.default_retry_delay
        message = next_try(self, request.message, args, kwargs, {**options, "eta": eta, "countdown": countdown})
        error = Retry(exc=exc, when=eta or countdown, is_eager=request.is_eager, sig=message)
        if throw:
            raise error from exc
        return error

    def replace(self, sig: Any) -> Any:
        """Let a canvas take this job's place: its id, what follows it, its place in a group or chord.

        Raises Replaced, which ends the run; ImproperlyConfigured for an empty chain, TypeError for what is no canvas.
        """
        sig = signature(sig)
        if isinstance(sig, chain) and not sig.tasks:
            raise ImproperlyConfigured("Cannot replace with an empty chain")
        return self.on_replace(sig)

    def on_replace(self, sig: Signature) -> Any:
        """Called by `replace`. Raises Replaced; a direct call runs `sig` here and returns its value."""
        if self.request.message is None:
            return sig.apply().get()
        raise Replaced(sig)

    def add_to_chord(self, sig: Any, lazy: bool = False) -> Any:
        """Make `sig` one more member of the chord's header that this job is in; it is sent when the job has succeeded.

        Returns the handle on its result. Raises ValueError outside of a header, and for `lazy`, which Celery has.
        """
        request = self.request
        if not request.chord:
            raise ValueError("Current task is not member of any chord")
        if lazy:
            raise ValueError("add_to_chord sends the new member itself; leave lazy out.")
        tree = single(signature(sig))
        request.added.append(tree)
        return frozen(tree)

    # Hooks, all called in the process that runs the job

    def before_start(self, task_id: Any, args: Any, kwargs: Any) -> None:
        """Called before each run. What it raises fails the job."""

    def on_success(self, retval: Any, task_id: Any, args: Any, kwargs: Any) -> None:
        """Called after a run that succeeded."""

    def on_failure(self, exc: BaseException, task_id: Any, args: Any, kwargs: Any, einfo: ErrorInfo) -> None:
        """Called after a run that failed."""

    def on_retry(self, exc: BaseException, task_id: Any, args: Any, kwargs: Any, einfo: ErrorInfo) -> None:
        """Called after a run that is to be repeated."""

    def after_return(
        self, status: str, retval: Any, task_id: Any, args: Any, kwargs: Any, einfo: ErrorInfo | None
    ) -> None:
        """Called after each run, whatever its end."""

    # What `Execution` needs

    @property
    def ignores_result(self) -> bool:
        return bool(settings.TASK_IGNORE_RESULT if self.ignore_result is None else self.ignore_result)

    @property
    def acknowledges_late(self) -> bool:
        return bool(settings.TASK_ACKS_LATE if self.acks_late is None else self.acks_late)

    def bind(self, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The decoded arguments as the function's annotations want them. Raises TypeError if they do not fit."""
        if self._converters is None:
            self._converters = encoding.converters(self.run)
        if not self._converters:
            return args, kwargs
        bound = self.parameters.bind(*args, **kwargs)
        for name in bound.arguments.keys() & self._converters.keys():
            bound.arguments[name] = self._converters[name](bound.arguments[name])
        return list(bound.args), bound.kwargs

    def call(self, args: list[Any], kwargs: dict[str, Any], limit: Unlimited = UNLIMITED) -> Any:
        """Run it to its end, within `limit`; errors named in `autoretry_for` become Retry."""
        try:
            return self.invoke(args, kwargs, limit)
        except BaseException as error:
            if not is_tried_again(self, error):
                raise
            raise self.retry(exc=error, throw=False, **automatic_options(self)) from error

    async def acall(self, args: list[Any], kwargs: dict[str, Any], limit: Unlimited = UNLIMITED) -> Any:
        """`call` of an `async def` task, in an event loop."""
        try:
            return await self.ainvoke(args, kwargs, limit)
        except BaseException as error:
            if not is_tried_again(self, error):
                raise
            raise self.retry(exc=error, throw=False, **automatic_options(self)) from error

    def invoke(self, args: Sequence[Any], kwargs: Mapping[str, Any], limit: Unlimited) -> Any:
        """Call its function, within `limit`."""
        function: Any = self if self._has_own_call else self.run
        return (limit.call_async if self.is_async else limit.call)(function, args, kwargs)

    async def ainvoke(self, args: Sequence[Any], kwargs: Mapping[str, Any], limit: Unlimited) -> Any:
        """`invoke` of an `async def` task, in an event loop."""
        function: Any = self if self._has_own_call else self.run
        return await limit.awaited(function, args, kwargs)

    def judged(self, error: BaseException) -> BaseException:
        """What the error of a batch comes to in one of its jobs, which runs here: a retry of that job, or itself.

        Raises what `retry` does.
        """
        if isinstance(error, Retry):
            options = dict(error.sig) if isinstance(error.sig, Mapping) else {}
            options["eta" if isinstance(error.when, datetime) else "countdown"] = error.when
            return self.retry(exc=error.exc, throw=False, **options)
        if not is_tried_again(self, error):
            return error
        return self.retry(exc=error, throw=False, **automatic_options(self))


def _could_be_given(args: object, kwargs: object) -> bool:
    return isinstance(args, Sequence) and not isinstance(args, (str, bytes)) and isinstance(kwargs, Mapping)


def _split(call: Sequence[Any] | Mapping[str, Any]) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """One call of `enqueue_many` as args and kwargs."""
    if isinstance(call, Mapping):
        return (), call
    if isinstance(call, (str, bytes)) or not isinstance(call, Iterable):
        raise TypeError(
            f"enqueue_many takes a sequence of args or a mapping of kwargs for each job, not {call!r:.200}; "
            f"of one argument: [({call!r:.200},), …]."
        )
    return tuple(call), {}
