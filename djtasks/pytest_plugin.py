"""Fixtures for a site's own tests; pytest-django has to be there. What they give stands in `testing`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest


def _testing() -> Any:
    """The module, once Django is set up: pytest loads this plugin before."""
    return import_module("djtasks.testing")


@pytest.fixture
def djtasks_eager() -> Iterator[None]:
    """Tasks run at once, where they are sent; what they raise is raised there."""
    with _testing().eager():
        yield


@pytest.fixture
def djtasks_jobs(db: None) -> Iterator[Any]:
    """What is queued during the test, as a `CapturedJobs`."""
    with _testing().CapturedJobs() as jobs:
        yield jobs


@pytest.fixture
def djtasks_worker(transactional_db: None) -> Iterator[int]:
    """A real worker runs what is queued during the test. Gives its process id."""
    with _testing().worker() as pid:
        yield pid
