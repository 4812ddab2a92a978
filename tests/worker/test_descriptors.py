"""The doorbell: a pipe that a job may close without our knowing."""

import os

import pytest

from djtasks.worker.descriptors import Doorbell, readable


@pytest.fixture
def bell():
    bell = Doorbell()
    yield bell
    for end in {bell.descriptor, bell._source}:
        if bell.is_whole:
            os.close(end)


def test_who_waits_hears_the_bell_until_it_is_hushed(bell):
    assert not readable([bell.descriptor], 0)
    bell.ring()
    bell.ring()
    assert readable([bell.descriptor], 5) == {bell.descriptor}
    bell.hush()
    assert not readable([bell.descriptor], 0)


def test_a_bell_that_nobody_hushes_holds_up_nobody(bell):
    for _ in range(100_000):  # more than a pipe holds
        bell.ring()
    assert readable([bell.descriptor], 0)


@pytest.mark.parametrize("end", ["descriptor", "_source"])
def test_what_was_opened_in_the_place_of_an_end_is_left_alone(bell, end, tmp_path):
    path = tmp_path / "database"
    path.write_bytes(b"precious")
    assert bell.is_whole
    file = os.open(path, os.O_RDWR)
    os.dup2(file, getattr(bell, end))
    bell.ring()
    bell.hush()
    assert not bell.is_whole
    assert path.read_bytes() == b"precious"
    assert os.lseek(file, 0, os.SEEK_CUR) == 0  # nor was it read: the copy shares its place in the file
    for each in (file, bell.descriptor, bell._source):
        os.close(each)
    bell.ring()
    bell.hush()
    assert not bell.is_whole
