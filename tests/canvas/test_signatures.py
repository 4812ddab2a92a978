"""Signatures as data: how they are made, changed, written and read back."""

import copy
import json
import pickle
import uuid

import pytest

from djtasks import Signature, chain, chord, group, signature, xmap
from djtasks.canvas import chunks, maybe_signature
from djtasks.exceptions import NotRegistered
from djtasks.result import AsyncResult, GroupResult
from tests.canvas.tasks import add, fail, identity, mul, total

TREES = [
    add.s(2, 2),
    add.s(2, y=3).set(queue="q", priority=3),
    add.si(1, 1),
    add.s(1, 1).on_error(fail.s()),
    chain(add.s(1, 1), add.s(1)),
    group(add.s(1, 1), add.s(2, 2)),
    chord([add.s(1, 1)], total.s()),
    add.chunks([[1, 1], [2, 2]], 2),
    add.starmap([[1, 1]]),
    identity.map([1, 2]),
    chain(add.s(1, 1), group(add.s(1), chain(add.s(2), mul.s(2))), total.s(), group(identity.s(), identity.s())),
    group(chord([chain(add.s(1, 1), add.s(1)), add.s(1, 1)], chord([total.s()], total.s())), add.s(1, 1)),
    chain(add.s(1, 1), add.s(1), task_id="own"),
    chord(group(add.s(1, 1), add.s(1, 1)), total.s(), queue="q"),
]


@pytest.mark.parametrize("sig", TREES, ids=repr)
def test_a_tree_comes_back_from_json_as_it_was(sig):
    text = json.dumps(sig)
    for rebuilt in (signature(json.loads(text)), Signature.from_dict(json.loads(text))):
        assert rebuilt == sig
        assert type(rebuilt) is type(sig)
        assert json.dumps(rebuilt) == text
        assert repr(rebuilt) == repr(sig)


@pytest.mark.parametrize("sig", TREES, ids=repr)
@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, Signature.clone, lambda sig: pickle.loads(pickle.dumps(sig))]
)
def test_copies_are_equal_and_separate(sig, copied):
    before = json.dumps(sig)
    made = copied(sig)
    assert (made, type(made)) == (sig, type(sig))
    made.set(countdown=3)
    made.link(add.s(1))
    made.freeze()
    assert json.dumps(sig) == before


def test_a_signature_is_made_in_many_ways():
    expected = {
        "task": "tests.canvas.tasks.add", "args": (2, 2), "kwargs": {}, "options": {"countdown": 10},
        "subtask_type": None, "immutable": False,
    }  # fmt: skip
    assert add.signature((2, 2), countdown=10) == expected
    assert add.s(2, 2).set(countdown=10) == expected
    assert signature("tests.canvas.tasks.add", args=(2, 2), countdown=10) == expected
    assert signature(add, (2, 2), options={"countdown": 10}) == expected
    assert Signature(task="tests.canvas.tasks.add", args=[2, 2], countdown=10) == expected
    assert signature(expected) == expected


def test_its_parts_can_be_read_and_set():
    sig = add.s(1, y=2).set(queue="q")
    assert (sig.name, sig.task, sig.args, sig.kwargs, sig.options) == (
        "tests.canvas.tasks.add", "tests.canvas.tasks.add", (1,), {"y": 2}, {"queue": "q"},
    )  # fmt: skip
    sig.args = [3]
    sig.set(immutable=True)
    assert (sig.args, sig.immutable, sig.id, sig.type.name) == ((3,), True, None, add.name)


def test_partial_arguments_go_before_and_keywords_over():
    sig = add.s(2)
    assert sig.clone((4,)).args == (4, 2)
    assert sig.clone((4,), {"y": 1}, countdown=3) == add.s(4, 2, y=1).set(countdown=3)
    assert sig.partial((4,)) == add.s(4, 2)
    assert sig(4) == 6
    assert add.si(2, 2).clone((4,)).args == (2, 2)
    assert sig.replace(args=(9,)).args == (9,)


def test_links_are_kept_once_and_found_at_any_depth():
    sig = add.s(1, 1)
    first, second = add.s(2), add.s(3)
    assert sig.link(first) is first
    sig.link(first)
    first.link(second)
    assert sig.options["link"] == [first]
    assert sig.flatten_links() == [sig, first, second]
    assert sig.on_error(fail.s()) is sig
    assert sig.options["link_error"] == [fail.s()]


def test_a_task_or_a_dict_beside_the_operator_stands_for_its_signature():
    sig = add.s(1, 1)
    assert (sig | identity).tasks == [sig, identity.s()]
    assert (identity | sig).tasks == [identity.s(), sig]
    assert (sig | {"task": "x"}).tasks[1].task == ({"task": "x"} | sig).tasks[0].task == "x"
    assert (sig | add.s(2) | identity).tasks[2] == identity.s()
    assert (group(sig, sig) | identity).body == identity.s()
    assert (chord([sig], identity.s()) | identity).body.tasks == [identity.s()] * 2
    assert (add.chunks([(1, 1)], 1) | identity).body == identity.s()


@pytest.mark.parametrize("other", [5, None, "text", [add.s(1, 1)]], ids=repr)
def test_nothing_else_stands_beside_the_operator(other):
    for sig in (add.s(1, 1), chain(add.s(1, 1)), group(add.s(1, 1)), chord([add.s(1, 1)], identity.s())):
        with pytest.raises(TypeError, match="unsupported operand"):
            sig | other
        with pytest.raises(TypeError, match="unsupported operand"):
            other | sig


@pytest.mark.parametrize("wrong", [5, None, object], ids=repr)
def test_what_is_no_signature_is_refused_when_a_canvas_is_made_of_it(wrong):
    for make in (
        lambda: chain(wrong),
        lambda: chain(add.s(1, 1), wrong),
        lambda: chain([add.s(1, 1), wrong]),
        lambda: group(wrong),
        lambda: group(add.s(1, 1), wrong),
        lambda: group(each for each in [wrong]),
        lambda: chord(wrong, identity.s()),
        lambda: chord([add.s(1, 1), wrong], identity.s()),
        lambda: chord((each for each in [wrong]), identity.s()).apply_async(),
    ):
        with pytest.raises(TypeError, match="Neither a signature nor a task"):
            make()


def test_a_text_is_the_name_of_one_task():
    assert [each.task for each in chain("some.task").tasks] == ["some.task"]
    assert [each.task for each in group("some.task", "other").tasks] == ["some.task", "other"]
    assert [each.task for each in group("some.task").tasks] == ["some.task"]


def test_freezing_gives_the_id_of_the_job_and_gives_it_once():
    sig = add.s(1, 1)
    result = sig.freeze()
    assert isinstance(result, AsyncResult)
    assert sig.id == result.id == sig.freeze().id
    assert add.s(1, 1).freeze("own").id == "own"


def test_one_signature_as_several_members_gives_each_its_own_id_and_links():
    sig = add.s(1, 1)
    header = group(sig, sig, sig)
    assert len({each.id for each in header.freeze()}) == 3
    header.link(add.si(2, 2))
    assert [len(each.options.get("link", ())) for each in header.tasks] == [1, 0, 0]
    assert header.tasks[0] is sig


@pytest.mark.parametrize(
    "canvas",
    [
        lambda sig: group(sig, sig),
        lambda sig: chain(sig, sig),
        lambda sig: chord([add.s(1, 1), sig], sig),
    ],
)
def test_an_id_that_stands_twice_in_a_canvas_is_an_error(canvas):
    with pytest.raises(ValueError, match="Two jobs of this canvas have the id 'one'"):
        canvas(add.s(1, 1).set(task_id="one")).apply_async()


def test_an_id_that_is_none_is_an_error_wherever_it_stands():
    for sig in (
        chain(add.s(1, 1), add.s(2).set(task_id="x" * 65)),
        group(add.s(1, 1), add.s(2, 2)).set(task_id="\0"),
        chord([add.s(1, 1), add.s(2, 2)], add.s(), header_id="x" * 65),
    ):
        with pytest.raises(ValueError, match="1 to 64 printable ASCII characters"):
            sig.apply_async()
    with pytest.raises(ValueError, match="retries must be a whole number"):
        add.s(1, 1).set(retries="many").apply_async()
    sig = chain(add.s(1, 1), add.s(2).set(task_id=uuid.UUID(int=7)))
    assert sig.apply().id == str(uuid.UUID(int=7))


def test_freezing_a_tree_gives_its_results_with_their_parents():
    frozen = (add.s(1, 1) | group(add.s(1), add.s(2)) | total.s()).freeze()
    assert isinstance(frozen.parent, GroupResult)
    assert [len(frozen.parent), isinstance(frozen.parent.parent, AsyncResult)] == [2, True]
    assert isinstance(group(add.s(1, 1)).freeze(), GroupResult)


def test_the_operator_makes_what_celery_makes():
    assert type(add.s(1, 1) | add.s(1)) is chain
    assert [each.args for each in ((add.s(1, 1) | add.s(2)) | (add.s(3) | add.s(4))).tasks] == [
        (1, 1),
        (2,),
        (3,),
        (4,),
    ]
    assert type(group(add.s(1, 1)) | total.s()) is chord
    assert type(chain(group(add.s(1, 1), add.s(1, 1)), total.s())) is chord
    assert type((chord([add.s(1, 1)], total.s()) | add.s(1)).body) is chain
    assert type(chord([add.s(1, 1)], total.s()) | add.s(1)) is chord
    assert type((add.s(1, 1) | group(add.s(1), add.s(2)) | total.s()).tasks[1]) is chord
    sig = add.s(1, 1)
    sig |= add.s(2)
    assert type(sig) is chain
    with pytest.raises(TypeError):
        _ = add.s(1, 1) | 3


def test_a_repr_reads_like_the_code():
    assert repr(add.s(2, y=3)) == "tests.canvas.tasks.add(2, y=3)"
    assert repr(add.s(2, 2) | add.s(4)) == "tests.canvas.tasks.add(2, 2) | add(4)"
    assert repr(group(add.s(2, 2), add.s(4, 4))) == "group(tests.canvas.tasks.add(2, 2), add(4, 4))"
    assert repr(chord([add.s(2, 2)], total.s())) == "chord([tests.canvas.tasks.add(2, 2)], total())"
    assert repr(add.starmap([(1, 2)])) == "[tests.canvas.tasks.add(*x) for x in [(1, 2)]]"
    assert repr(identity.map(range(100))).endswith("…]")
    assert "in chunks of 10" in repr(add.chunks([(1, 1)], 10))
    assert [repr(chain()), repr(group())] == ["chain()", "group()"]


def test_lengths_and_members():
    assert len(group(add.s(i, i) for i in range(10))) == len(group(add.s(i, i) for i in range(10)).tasks) == 10
    assert [each.args for each in chord((add.s(i, i) for i in range(2)), total.s()).tasks] == [(0, 0), (1, 1)]
    assert len(add.chunks([(i, i) for i in range(5)], 2).group()) == 3
    with pytest.raises(ValueError, match="at least one call"):
        chunks(add, [], 0).group()


def test_what_is_no_signature_is_said_to_be_none():
    with pytest.raises(TypeError, match="is no signature"):
        signature({"args": [1]})
    assert maybe_signature(None) is None
    assert isinstance(maybe_signature(add), Signature)
    with pytest.raises(NotRegistered):
        signature("no.such.task").apply()


def test_a_group_is_spread_in_time_by_skew():
    assert [each.options["countdown"] for each in group(add.s(i, i) for i in range(3)).skew(start=1, stop=2).tasks] == [
        1,
        2,
        2,
    ]
    assert isinstance(xmap(add, [1]), Signature)
