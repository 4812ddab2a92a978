"""What follows a job in its chain, as it travels: near steps as they are, far ones compressed."""

import base64
import json
import zlib

import pytest

from djtasks import steps
from djtasks.exceptions import MalformedMessage
from djtasks.steps import LaterSteps, mentions, spread


def texts(count):
    return [json.dumps({"task": "t", "options": {"task_id": f"id-{number:05}"}}) for number in range(count)]


def one_by_one(rest):
    while rest:
        following, rest = LaterSteps.of(json.loads(json.dumps(rest.as_options()))).split()
        yield following


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 16, 17, 100])
def test_a_chain_of_any_length_comes_out_in_order_step_by_step(count):
    rest = LaterSteps().after(texts(count))
    assert rest.texts() == texts(count)
    assert list(one_by_one(rest)) == texts(count)
    assert bool(rest) is bool(count)


@pytest.mark.parametrize("counts", [(3, 4), (3, 20), (20, 3), (20, 20)])
def test_steps_can_be_put_before_others(counts):
    first, last = texts(sum(counts))[: counts[0]], texts(sum(counts))[counts[0] :]
    assert LaterSteps().after(last).after(first).texts() == [*first, *last]


def test_what_a_job_of_a_long_chain_takes_along_is_a_fraction_of_it():
    whole = len(json.dumps(texts(1000)))
    assert len(json.dumps(LaterSteps().after(texts(1000)).as_options())) < whole / 5


def test_what_is_very_long_stands_as_it_is_and_counts_as_such(monkeypatch):
    monkeypatch.setattr(steps, "MOST_FAR", 500)
    assert LaterSteps().after(texts(40)).as_options() == {"chain": texts(40)}
    assert list(one_by_one(LaterSteps().after(texts(40)))) == texts(40)


def compressed(data):
    return base64.b64encode(zlib.compress(data)).decode()


@pytest.mark.parametrize(
    "far",
    ["no base64", "é", base64.b64encode(b"no zlib").decode(), compressed(b"no JSON"), compressed(b"[1]"),
     compressed(b"7"), compressed(b"[" * 100_000), compressed(b"0" * 10 * steps.MOST_FAR)],
    ids=["base64", "ascii", "zlib", "json", "numbers", "number", "deep", "bomb"],
)  # fmt: skip
def test_what_no_sender_of_ours_has_written_is_malformed(far):
    options = {"chain": ["a"], steps.FAR: far}
    with pytest.raises(MalformedMessage, match="later steps of a chain"):
        LaterSteps.of(options).texts()
    assert spread(options) == options
    assert not mentions(json.dumps(options), "id-00001")


def test_a_job_is_found_by_its_id_wherever_it_stands():
    options = json.dumps(LaterSteps().after(texts(40)).as_options(), separators=(",", ":"))
    assert [mentions(options, f"id-{number:05}") for number in (0, 39, 40)] == [True, True, False]
    assert len(spread(json.loads(options))["chain"]) == 40


@pytest.mark.parametrize(
    "options", ['[{"later":"x"}]', '{"chain":5,"later":"x"}', '{"chain":[5],"later":"x"}', '{"later":"x"}',
                '{"later":"x","deep":' + "[" * 100_000]
)  # fmt: skip
def test_in_options_of_any_shape_nobody_is_found(options):
    assert not mentions(options, "id-00001")
