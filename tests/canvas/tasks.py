"""Tasks of the canvas tests: pure ones, ones that replace themselves, ones that say what they were called with."""

from pathlib import Path

from djtasks import chain, chord, group, shared_task, signature
from djtasks.exceptions import Ignore, Replaced
from tests.tasks import note


class Expected(Exception):
    """What tasks here fail with."""


@shared_task
def add(x, y):
    return x + y


@shared_task
def mul(x, y):
    return x * y


@shared_task
def identity(x):
    return x


@shared_task
def total(numbers):
    return sum(numbers)


@shared_task
def fail(*args):
    raise Expected("it was to fail", *args)


@shared_task
def echo(path, line):
    note(path, line)
    return line


@shared_task
def echo_value(value, path):
    note(path, value)


@shared_task(bind=True)
def ids(self, i):
    return self.request.root_id, self.request.parent_id, i


@shared_task(bind=True)
def collect_ids(self, results, i):
    return results, (self.request.root_id, self.request.parent_id, i)


@shared_task(bind=True)
def place(self, *args):
    request = self.request
    return [
        request.id,
        request.delivery_info["priority"],
        request.delivery_info["routing_key"],
        request.eta is not None,
    ]


@shared_task(bind=True)
def add_replaced(self, x, y):
    raise self.replace(add.s(x, y))


@shared_task(bind=True)
def add_returned(self, x, y):
    return self.replace(add.s(x, y))


@shared_task(bind=True)
def replaced_by_chain(self, *args):
    return self.replace(chain(identity.s(*args), identity.s()))


@shared_task(bind=True)
def replaced_by_group(self, numbers, value):
    raise self.replace(group(add.s(number, value) for number in numbers))


@shared_task(bind=True)
def replaced_twice(self, x):
    raise self.replace(add_replaced.s(x, 1) | add_replaced.s(1))


@shared_task(bind=True)
def replaced_by_failure(self):
    raise self.replace(identity.si(1) | fail.s())


@shared_task(bind=True)
def replaced_by_nothing(self, *args):
    return self.replace(chain())


@shared_task(bind=True)
def nesting(self, left):
    if left:
        raise self.replace(nesting.s(left - 1))
    return self.request.replaced_task_nesting


@shared_task(bind=True)
def own_id_after_replacement(self, first=True):
    if first:
        raise self.replace(own_id_after_replacement.si(False))
    return self.request.id


@shared_task(bind=True)
def adds_to_chord(self, numbers, value):
    for number in numbers:
        self.add_to_chord(add.s(number, value))
    return 0


@shared_task(bind=True)
def adds_to_chord_and_is_replaced(self, x):
    self.add_to_chord(identity.s(x))
    raise self.replace(identity.s(x + 1))


@shared_task(bind=True)
def adds_a_chord_to_chord(self, numbers, value):
    self.add_to_chord(group(add.s(number, value) for number in numbers) | total.s())
    return 0


@shared_task(bind=True, max_retries=5)
def retried_once(self, x):
    if self.request.retries == 0:
        raise self.retry(countdown=0)
    return x


@shared_task
def ignores():
    raise Ignore()


@shared_task(ignore_result=True)
def unkept(x):
    return x


@shared_task
def errback_of_id(request_id, path=None):
    note(path, f"id {request_id}")


@shared_task
def errback_of_request(request, exc, traceback, path=None):
    note(path, f"request {request.id} {type(exc).__name__} {'Traceback' in traceback}")


@shared_task(bind=True)
def retried_errback(self, request_id, path=None):
    if self.request.retries == 0:
        raise self.retry(countdown=0)
    note(path, f"retried {request_id}")


@shared_task
def starts_a_chain():
    return (add.s(1, 2) | add.s(3)).apply_async()


@shared_task
def starts_in_later():
    return add.apply_async((1, 2), queue="later")


@shared_task
def starts_in_later_and_fails():
    add.apply_async((1, 2), queue="later")
    raise Expected("after it has sent a job")


@shared_task
def starts_a_group():
    group(add.s(1, 2), add.s(3, 4)).apply_async()


@shared_task
def gives_signature():
    return group(add.s(1, 2), add.s(3, 4)) | total.s()


@shared_task(bind=True)
def runs_signature(self, sig):
    raise self.replace(signature(sig))


@shared_task(bind=True, max_retries=None)
def retried_now_and_then(self, x):
    """Every third of its calls is retried once."""
    if x % 3 == 0 and self.request.retries == 0:
        raise self.retry(countdown=0.05)
    return x


# Arithmetic whose result tells apart what came in which order: see test_properties.


def digest(value):
    """A number of a number, or of lists of them at any depth."""
    if not isinstance(value, list):
        return value
    number = len(value)
    for each in value:
        number = (number * 31 + digest(each)) % 1_000_003
    return number


@shared_task
def plus(value, n):
    return digest(value) + n


@shared_task
def times(value, n):
    return digest(value) * n % 1_000_003


@shared_task
def both(value):
    return [digest(value), [digest(value) + 1]]


@shared_task
def constant(n):
    return n


@shared_task(bind=True)
def becomes(self, value, sig):
    raise self.replace(signature(sig).clone((value,)))


@shared_task
def fails_first(x, path):
    """It fails, and succeeds when it runs once more."""
    if not Path(path).exists():
        note(path, "failed")
        raise Expected("the first time")
    return x


@shared_task(bind=True)
def becomes_any(self, given):
    raise Replaced(given)


@shared_task(bind=True)
def becomes_large_chord(self, of_member, of_body):
    raise self.replace(chord([identity.s("m" * of_member), identity.s(1)], add.s("b" * of_body)))


@shared_task
def big(size):
    return "x" * size


def route_that_raises(name, args, kwargs, options, task=None, **more):
    """A router that fails for one task."""
    return {"queue": 1 // 0} if name == add.name else None


def route_for_other_queues_raises(name, args, kwargs, options, task=None, **more):
    """A router that fails for what names no queue of its own."""
    return None if options.get("queue") else {"queue": 1 // 0}


@shared_task(bind=True)
def follows(self, left):
    """Each adds the next."""
    if left:
        self.add_to_chord(follows.s(left - 1))
    return left


@shared_task(bind=True)
def replaced_by_one_that_fails_first(self, x, path):
    raise self.replace(chain(fails_first.s(x, path), identity.s()))


@shared_task
def length(text):
    return len(text)
