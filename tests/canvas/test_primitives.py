"""What compositions give: the same at once and by each broker."""

import json
from operator import methodcaller

import pytest

from djtasks import chain, chord, group, signature
from djtasks.exceptions import ImproperlyConfigured
from djtasks.testing import run_jobs
from tests.canvas.tasks import (
    Expected,
    add,
    add_replaced,
    add_returned,
    adds_a_chord_to_chord,
    adds_to_chord,
    adds_to_chord_and_is_replaced,
    digest,
    fail,
    gives_signature,
    identity,
    ignores,
    mul,
    nesting,
    plus,
    replaced_by_chain,
    replaced_by_group,
    replaced_by_nothing,
    replaced_twice,
    retried_once,
    runs_signature,
    total,
    unkept,
)  # fmt: skip
from tests.canvas.ways import nothing_is_left, run_here, run_queued
from tests.waiting import wait_until

every_broker = pytest.mark.every_broker("redis", "valkey")
MANY = 42


def deep():
    """Groups in chains in groups."""
    return group([group([group([group([add.s(1, 2)]) | add.s([3])]) | add.s([4])]) | add.s([5])]) | add.s([6])


# How it reads in Celery's manual, or in the reports of what went wrong there
CASES = {
    "chain": (lambda: add.s(4, 4) | add.s(8) | add.s(16), 32),
    "chain of one": (lambda: chain(add.s(3, 4)), 7),
    "chain of chains of one": (lambda: chain([chain(add.s(3, 4))]), 7),
    "chain of a generator": (lambda: chain(add.s(*((1, 1) if i == 0 else (1,))) for i in range(10)), 11),
    "immutable": (lambda: add.s(2, 2) | add.si(4, 4) | add.s(1), 9),
    "keyword partial": (lambda: add.s(1, 2) | add.s(y=3), 6),
    "replaced in a chain": (
        lambda: add.s(2, 2) | (add.s(4) | add_replaced.s(8) | add.s(16)) | group(add.s(32 + i) for i in range(4)),
        [64, 65, 66, 67],
    ),
    "group": (lambda: group(add.s(2, 2), add.s(4, 4)), [4, 8]),
    "group of a generator": (lambda: group(add.s(i, i) for i in range(5)), [0, 2, 4, 6, 8]),
    "group of one chain with a group at its end": (lambda: group(add.s(1, 2) | group(add.s(1), add.s(2))), [4, 5]),
    "group of an empty chain and one with a group at its end": (
        lambda: group(chain(), add.s(1, 2) | group(add.s(1), add.s(2)), group()),
        [4, 5],
    ),
    "group with a chain with a group at its end": (
        lambda: group(identity.si(1), chain(identity.si(5), group(identity.si(3), identity.si(4)))),
        [1, [3, 4]],
    ),
    "chains in a group get what is before it": (lambda: add.s(5, 6) | group((add.s(1) | add.s(2), add.s(3))), [14, 14]),
    "nested groups flatten": (
        lambda: group(add.si(1, 10), group(add.si(1, 100), group(add.si(1, 1000), add.si(1, 2000)))),
        [11, 101, 1001, 2001],
    ),
    "group of groups of one": (lambda: group(group(identity.s(42), identity.s(42))), [42, 42]),
    "chord": (lambda: chord([add.s(2, 2), add.s(4, 4)], total.s()), 12),
    "chord of a group": (lambda: chord(group(add.s(i, i) for i in range(10)), total.s()), 90),
    "chord of a signature": (lambda: chord(add.s(1, 1), total.s()), 2),
    "chord of a bare task": (lambda: chord([gives_signature], identity.si(3)), 3),
    "chord of a generator": (lambda: chord((add.s(i, i) for i in range(10)), total.s()), 90),
    "chord with an immutable body": (lambda: chord([add.s(2, 2)], add.si(1, 1)), 2),
    "chord with partial keywords": (lambda: chord([add.s(2, 2)], add.s(y=[1])), [4, 1]),
    "chord with a chain as body": (lambda: chord([add.s(2, 2)], total.s() | add.s(1)), 5),
    "chord with a group as body": (lambda: chord([add.s(2, 2)], group(total.s(), identity.s())), [4, [4]]),
    "chord with a chord as body": (lambda: chord([add.s(2, 2)], chord([total.s(), total.s()], total.s())), 8),
    "chord of chords": (
        lambda: chord([chord([add.s(1, 2), add.s(3, 4)], add.s([5])), chord([add.s(6, 7)], add.s([10]))], identity.s()),
        [[3, 7, 5], [13, 10]],
    ),
    "chord of a chain with a group at its end": (
        lambda: chord(group(chain(identity.s(42), group(identity.s(), identity.s()))), identity.s()),
        [[42, 42]],
    ),
    "chord in chain in chord in chain": (
        lambda: chain(
            identity.si(1),
            chord(
                [identity.si(2), chain(identity.si(3), chord([identity.si(4), identity.si(5)], identity.si(6)))],
                identity.s(),
            ),
        ),
        [2, 6],
    ),
    "group and task": (lambda: group(add.s(1, 1), add.s(2, 2)) | total.s(), 6),
    "group, task, task, group, task": (
        lambda: group(add.s(1, 1), add.s(1, 1)) | total.s() | add.s(1) | group(add.s(1), add.s(1)) | total.s(),
        12,
    ),
    "group and group": (lambda: group(add.s(1, 1), add.s(2, 2)) | group(total.s(), total.s()), [6, 6]),
    "four in a row": (
        lambda: chain(
            group(add.s(1, 1), add.s(2, 2)), group(total.s(), total.s()), group(total.s(), total.s()), total.s()
        ),
        24,
    ),
    "group first, in the middle and last": (
        lambda: chain(group([add.s(1, 1)] * 2), total.s(), group(add.s(1), add.s(2)), total.s(), group([add.s(1)] * 2)),
        [12, 12],
    ),
    "chord first": (lambda: chain(chord([add.s(1, 1)], total.s()), add.s(1)), 3),
    "chord in the middle": (lambda: add.s(1, 1) | chord([add.s(1), add.s(2)], total.s()) | mul.s(2), 14),
    "chord last": (lambda: add.s(1, 1) | chord([add.s(1), add.s(2)], total.s()), 7),
    "chord and chain": (lambda: chord([add.s(1, 1)], total.s()) | (add.s(1) | add.s(2)), 5),
    "chain and chain": (lambda: (add.s(1, 1) | add.s(1)) | (add.s(2) | add.s(3)), 8),
    "one in a group before a task": (lambda: chain(group(identity.s(1)), identity.s()), 1),
    "one in a group by the operator": (lambda: group(identity.s(1)) | identity.s(), [1]),
    "nested five deep": (deep, [[[[3, 3], 4], 5], 6]),
    "mixed header": (
        lambda: chord(
            (
                identity.si(42), chain((identity.si(42),) * MANY), group((identity.si(42),) * MANY),
                chord((identity.si(42),) * MANY, identity.si(1337)),
            ),
            identity.s(),
        ),
        [42, 42, *([42] * MANY), 1337],
    ),
    "empty group before a task": (lambda: group([]) | identity.s(), []),
    "empty header": (lambda: chord([], total.s()), 0),
    "empty group in a chain": (lambda: chain(add.s(1, 1), group([]), add.s(1)), 3),
    "empty chain in a chain": (lambda: chain(add.s(1, 1), chain(), add.s(1)), 3),
    "empty chain in a group": (lambda: group(add.s(1, 1), chain()), [2]),
    "chunks": (lambda: add.chunks(zip(range(5), range(5), strict=True), 2), [[0, 2], [4, 6], [8]]),
    "chunks, then a task": (lambda: add.chunks([(1, 1), (2, 2), (3, 3)], 2) | identity.s(), [[2, 4], [6]]),
    "map": (lambda: total.map([[1, 2], [3]]), [3, 3]),
    "starmap": (lambda: add.starmap([(2, 2), (4, 4)]), [4, 8]),
    "map in a chain": (lambda: chain(add.starmap([(2, 2)]), total.s()), 4),
    "replaced by return": (lambda: add_returned.s(1, 2) | add.s(1), 4),
    "replaced by a chain": (lambda: replaced_by_chain.si(42), 42),
    "replaced first": (lambda: chain(replaced_by_chain.si(42), identity.s()), 42),
    "replaced in the middle": (lambda: chain(identity.s(42), replaced_by_chain.s(), identity.s()), 42),
    "replaced last": (lambda: chain(identity.s(42), replaced_by_chain.s()), 42),
    "replaced by a group": (lambda: replaced_by_group.s([1, 2], 3), [4, 5]),
    "replaced by an empty group": (lambda: replaced_by_group.s([], 3), []),
    "replaced by a group, in a chain": (lambda: replaced_by_group.s([1, 2], 3) | total.s(), 9),
    "replaced twice": (lambda: group(replaced_twice.s(1), add.s(1, 1)), [3, 2]),
    "replaced in a group": (lambda: group(identity.s(1), replaced_by_chain.s(2), identity.s(3)), [1, 2, 3]),
    "replaced in a header": (lambda: chord([identity.s(1), replaced_by_chain.s(2)], identity.s()), [1, 2]),
    "replaced body": (lambda: chord(identity.s(42), replaced_by_chain.s()), [42]),
    "replaced in the body": (
        lambda: chord(identity.s(42), chain(identity.s(), replaced_by_chain.s(), identity.s())),
        [42],
    ),
    "replaced in nested chords": (
        lambda: chord(
            [
                chord([add.s(1, 2), add_replaced.s(3, 4)], replaced_by_group.s(5)) | total.s(),
                chord([add_replaced.s(6, 7), add.s(0, 0)], replaced_by_group.s(8)) | total.s(),
            ],
            replaced_by_group.s(9),
        ),
        [29, 38],
    ),
    "replaced again and again": (lambda: nesting.s(3), 3),
    "added to a chord": (lambda: group([adds_to_chord.s([1, 2, 3], 4)]) | identity.s(), [0, 5, 6, 7]),
    "a chord added to a chord": (lambda: group([adds_a_chord_to_chord.s([1, 2, 3], 4)]) | identity.s(), [0, 18]),
    "added by one that is replaced": (
        lambda: chord([adds_to_chord_and_is_replaced.s(1), identity.s(5)], identity.s()),
        [2, 5, 1],
    ),
    "added while others wait": (lambda: chord([adds_to_chord.s([1], 1), identity.s(5)], identity.s()), [0, 5, 2]),
    "retried in a chain": (lambda: chain(retried_once.s(1), retried_once.s(), add.s(1)), 2),
    "retried in a header": (lambda: chord([retried_once.s(1), retried_once.s(2)], total.s()), 3),
    "retried body": (lambda: chord([identity.s(1)], retried_once.s()), [1]),
    "ignored result in a chain": (lambda: chain(unkept.s(1), add.s(1)), 2),
    "ignored results in a header": (lambda: chord([unkept.s(1), unkept.s(2)], total.s()), 3),
    "Ignore in a header": (lambda: chord([ignores.s(), identity.s(1)], identity.s()), [None, 1]),
    "Ignore in a chain in a header": (
        lambda: chord([chain(ignores.s(), identity.s()), chain(identity.s(1), ignores.si())], identity.s()),
        [None, None],
    ),
    "Ignore before a chord in a header": (
        lambda: chord([chain(ignores.s(), group(identity.s(), identity.s())), identity.s(1)], identity.s()),
        [None, 1],
    ),
    "one signature as several members": (lambda: chord([identity.s(1)] * 3, total.s()), 3),
    "a signature as a result": (lambda: chain(gives_signature.s(), runs_signature.s()), 10),
}  # fmt: skip


def differences(results, **options):
    """Which of the results are not as they should be, with what they are."""
    found = {}
    for name, result in results.items():
        try:
            value = result.get(**options)
        except Exception as error:
            value = error
        if value != CASES[name][1]:
            found[name] = value
    return found


@pytest.mark.parametrize("name", CASES)
def test_at_once(name):
    make, expected = CASES[name]
    sig = make()
    assert [run_here(sig).get(), run_here(sig).get()] == [expected, expected]


@every_broker
def test_by_the_broker(database):
    results = {name: make().apply_async() for name, (make, _expected) in CASES.items()}
    run_jobs()
    assert differences(results, timeout=1) == {}
    assert nothing_is_left()


@pytest.mark.parametrize("database", ["postgresql", "redis"], indirect=True)
def test_what_came_of_json_gives_the_same(database):
    results = {}
    for name, (make, _expected) in CASES.items():
        sig = make()
        if "generator object" in repr(sig):
            assert sig.tasks  # a generator is no JSON; looking at the members uses it up
        rebuilt = signature(json.loads(json.dumps(sig)))
        assert type(rebuilt) is type(sig)
        results[name] = rebuilt.apply_async()
    run_jobs()
    assert differences(results, timeout=1) == {}


@pytest.mark.parametrize("database", ["sqlite", "redis"], indirect=True)
def test_by_real_workers(database, start_worker):
    start_worker("-c", "2")
    results = {name: make().apply_async() for name, (make, _expected) in CASES.items()}
    assert differences(results, timeout=30) == {}
    wait_until(nothing_is_left)


@pytest.mark.parametrize(
    ("sig", "args", "expected"),
    [
        (chain(add.s(1), add.s(1)), (1,), 3),
        (chain(chain(identity.s(), identity.s())), (1,), 1),
        (chain(chord([identity.s(), identity.s()], identity.s()), identity.s()), (1,), [1, 1]),
        (group(add.s(1), add.s(2)), (1,), [2, 3]),
        (group(add.si(1, 1), add.s(2)), (1,), [2, 3]),
        (chord([add.s(1), add.s(2)], total.s()), (1,), 5),
        (chain(add.s(i) for i in range(10)), (3,), 48),
    ],
    ids=repr,
)
def test_arguments_go_to_the_jobs_that_come_first(sig, args, expected):
    assert sig.apply(args).get() == expected


FAILING = [
    chain(identity.s(1), fail.s(), add.s(1)),
    chain(identity.s(1), fail.s(), group(add.s(1), add.s(2)), total.s()),
    chain(identity.s(1), fail.s(), chord([add.s(1), add.s(2)], total.s()), identity.s()),
    add.s(1, 1) | fail.s() | group(add.s(1), add.s(1)),
    add.s(1, 1) | add.s(1) | group(add.s(1), fail.s()),
    group(add.s(1, 1), fail.s()),
    chord([fail.s()], identity.s()),
    chord([identity.s(42)], fail.s()),
    chord([chain(identity.si(42), fail.s(), identity.si(42))], identity.s()),
    chord([identity.si(42)], chain(identity.si(42), fail.s(), identity.si(42))),
    chord([identity.si(42), fail.s()], identity.s()) | add.s(1) | group(add.s(1), add.s(2)),
    chord([chord([fail.s()], identity.s()), identity.s(1)], identity.s()),
    group(chain(identity.s(1), fail.s(), identity.s()), identity.s(2)) | total.s(),
    replaced_by_chain.si(1) | fail.s() | identity.s(),
]


def all_before(result):
    """The jobs of a canvas, as its caller knows them."""
    while result is not None:
        yield from getattr(result, "results", [result])
        result = result.known_parent


@every_broker
def test_what_follows_a_failure_fails_and_nothing_waits_for_ever(database):
    results = [(sig, sig.apply_async()) for sig in FAILING]
    run_jobs()
    for sig, result in results:
        with pytest.raises(Expected):
            result.get(timeout=1)
        assert all(each.ready() for each in all_before(result)), sig
    assert nothing_is_left()


@pytest.mark.parametrize("sig", FAILING, ids=repr)
def test_what_follows_a_failure_fails_at_once_too(sig):
    with pytest.raises(Expected):
        run_here(sig).get()


def test_a_long_row_of_groups_is_made_ready_in_a_moment():
    """Each is the body of the one before: what is done for a body must not be done twice."""
    sig = chain(*(group(plus.s(0), plus.s(1)) for _ in range(40)), plus.s(0))
    value = 1
    for _ in range(40):
        value = digest([value, value + 1])
    assert run_here(sig, 1).get() == value


def test_an_empty_chain_gives_none_whatever_is_linked_to_it():
    sig = chain()
    sig.link(identity.s())
    sig.link_error(identity.s())
    assert (sig.apply_async(), sig.apply(), sig.delay(), sig.freeze()) == (None,) * 4


def test_freezing_leaves_out_what_is_empty():
    sig = chain.of([identity.s(1), chain.of([chain()]), add.s(1), chain()])
    frozen = sig.freeze("own")
    assert (frozen.id, frozen.parent.id) == ("own", sig.tasks[0].id)
    assert [each.id for each in group(chain(), identity.s(1).set(task_id="member")).freeze()] == ["member"]
    header = chord([identity.s(1).set(task_id="member"), chain()], total.s()).freeze().parent
    assert [each.id for each in header] == ["member"]


@every_broker
def test_a_job_cannot_be_replaced_by_nothing(database):
    result = run_queued(chain(identity.s(1), replaced_by_nothing.s()))
    with pytest.raises(Exception, match="Cannot replace with an empty chain"):
        result.get(timeout=1)


@pytest.mark.parametrize("send", [methodcaller("apply_async"), methodcaller("apply")])
def test_a_canvas_nested_deeper_than_python_goes_is_an_error_that_says_so(send):
    canvas = add.s(1)
    for _ in range(1000):
        canvas = chord([canvas], total.s())
    with pytest.raises(ImproperlyConfigured, match="nested too deeply"):
        send(canvas)


def test_a_chain_of_more_groups_than_python_nests_is_an_error_that_says_so():
    with pytest.raises(ImproperlyConfigured, match="nested too deeply"):
        chain(group(add.s(1), add.s(2)) for _ in range(1000))
