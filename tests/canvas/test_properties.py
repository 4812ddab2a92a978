"""Random canvases give at once, by a broker and in workers what a small evaluator of the manual's words gives."""

import json
from functools import reduce
from operator import or_

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from djtasks import chain, chord, group, signature
from djtasks.testing import run_jobs
from tests.canvas.tasks import becomes, both, constant, digest, fail, plus, retried_once, times
from tests.canvas.ways import nothing_is_left, run_here
from tests.waiting import wait_until

FIRST = 5  # the argument of the jobs that come first
FAILED = "failed"

# A tree is a tuple: a word and its parts. WORDS says what each means, and how it is written.

numbers = st.integers(-9, 9)
leaves = st.one_of(
    st.tuples(st.sampled_from(["plus", "plus by keyword", "times", "constant"]), numbers),
    st.just(("both",)),
    st.just(("retried",)),
)
leaves_that_may_fail = st.one_of(leaves, leaves, leaves, st.just(("fail",)))


def nested(trees):
    several = st.lists(trees, min_size=2, max_size=3)
    header = st.lists(trees, min_size=1, max_size=3)
    steps = st.lists(st.one_of(trees, trees, trees, st.just(("nothing",))), min_size=2, max_size=4)
    return st.one_of(
        st.tuples(st.sampled_from(["chain", "chain by operator"]), steps.filter(_has_two_steps)),
        st.tuples(st.just("group"), several),
        st.tuples(st.just("chord"), header, trees),
        st.tuples(st.just("replaced"), trees),
    )


def _has_two_steps(steps):
    return sum(step != ("nothing",) for step in steps) >= 2


trees = st.recursive(leaves, nested, max_leaves=10)
trees_that_may_fail = st.recursive(leaves_that_may_fail, nested, max_leaves=8)


class Failed(Exception):
    """A job that is reached fails."""


def meaning(tree, value):
    """What the manual says that comes of it."""
    word, *parts = tree
    return WORDS[word][0](value, *parts)


def built(tree):
    """The canvas."""
    word, *parts = tree
    return WORDS[word][1](*parts)


def in_turn(value, steps):
    return reduce(lambda before, step: meaning(step, before), steps, value)


def side_by_side(value, members):
    """The results of a group, which has the members of groups in it as its own."""
    found = []
    for each in members:
        found.extend(side_by_side(value, each[1]) if each[0] == "group" else [meaning(each, value)])
    return found


def failing(value):
    raise Failed


WORDS = {
    "plus": (lambda value, n: digest(value) + n, plus.s),
    "plus by keyword": (lambda value, n: digest(value) + n, lambda n: plus.s(n=n).set(priority=n)),
    "times": (lambda value, n: digest(value) * n % 1_000_003, times.s),
    "constant": (lambda value, n: n, constant.si),
    "both": (lambda value: [digest(value), [digest(value) + 1]], both.s),
    "retried": (lambda value: value, retried_once.s),
    "fail": (failing, fail.s),
    "nothing": (lambda value: value, chain),
    "replaced": (lambda value, instead: meaning(instead, value), lambda instead: becomes.s(built(instead))),
    "chain": (in_turn, lambda steps: chain(*map(built, steps))),
    "chain by operator": (in_turn, lambda steps: reduce(or_, map(built, steps))),
    "group": (side_by_side, lambda members: group(*map(built, members))),
    "chord": (
        lambda value, header, body: meaning(body, side_by_side(value, header)),
        lambda header, body: chord([*map(built, header)], built(body)),
    ),
}


def expected(tree):
    try:
        return meaning(tree, FIRST)
    except Failed:
        return FAILED


def outcome(result):
    """The value, or that it has failed; all that the caller has a handle on must have ended."""
    before = result
    while before is not None:
        assert before.ready()
        before = before.known_parent
    try:
        return result.get(timeout=1)
    except Exception:
        return FAILED


def bounded(examples):
    return settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )  # fmt: skip


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@bounded(60)
@given(tree=st.one_of(trees, trees_that_may_fail))
def test_it_means_the_same_wherever_it_runs(database, tree):
    sig = built(tree)
    text = json.dumps(sig)
    rebuilt = signature(json.loads(text))
    assert (type(rebuilt), json.dumps(rebuilt)) == (type(sig), text)
    assert outcome(run_here(sig, FIRST)) == expected(tree)
    results = [sig.apply_async((FIRST,)), rebuilt.apply_async((FIRST,))]
    run_jobs()
    assert [outcome(result) for result in results] == [expected(tree)] * 2
    assert nothing_is_left()


@pytest.mark.parametrize("database", ["redis"], indirect=True)
def test_it_means_the_same_in_workers(database, start_worker):
    found = []

    @bounded(20)
    @given(tree=st.one_of(trees, trees_that_may_fail))
    def gather(tree):
        found.append(tree)

    gather()
    start_worker("-c", "2")
    results = [built(tree).apply_async((FIRST,)) for tree in found]
    wait_until(lambda: all(result.ready() for result in results) and nothing_is_left(), seconds=30)
    assert [outcome(result) for result in results] == [expected(tree) for tree in found]
