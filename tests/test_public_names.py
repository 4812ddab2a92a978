"""What may be imported from where, and when."""

import pytest

import djtasks
from djtasks import exceptions
from tests.site import Site

MODULES = ("exceptions", "schedules", "signals", "result", "states", "models", "testing")
EXCEPTIONS = (
    "Retry", "Ignore", "Reject", "MaxRetriesExceededError", "TimeoutError", "SoftTimeLimitExceeded",
    "TimeLimitExceeded", "WorkerLostError", "TaskRevokedError", "NotRegistered", "ChordError", "ImproperlyConfigured",
    "BrokerUnavailable", "MessageTooLarge",
)  # fmt: skip


@pytest.mark.parametrize("name", djtasks.__all__)
def test_each_public_name_is_there(name):
    assert getattr(djtasks, name) is not None
    assert name in dir(djtasks)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'djtasks' has no attribute 'no_such_name'"):
        _ = djtasks.no_such_name


def test_importing_the_package_imports_nothing_else(tmp_path):
    code = "import sys, djtasks; print([name for name in sys.modules if name.startswith(('django.', 'djtasks.'))])"
    finished = Site(tmp_path).run("-c", code)
    assert finished.stdout.strip() == "[]", finished.stderr


def test_what_needs_no_models_can_be_imported_from_settings(tmp_path):
    site = Site(tmp_path)
    more = "from djtasks import states\nimport djtasks.exceptions, djtasks.message, djtasks.signals, djtasks.states\n"
    site.settings(more=more)
    finished = site.manage("check")
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("name", MODULES)
def test_modules_that_users_import_are_there(name):
    assert __import__(f"djtasks.{name}", fromlist=["x"])


def test_celerys_sets_of_states_are_there():
    states = djtasks.states
    assert sorted(states.READY_STATES) == sorted({"SUCCESS", "FAILURE", "REVOKED"})
    assert sorted(states.UNREADY_STATES) == sorted({"PENDING", "RECEIVED", "STARTED", "REJECTED", "RETRY"})
    assert sorted(states.EXCEPTION_STATES) == sorted({"RETRY", "FAILURE", "REVOKED"})
    assert sorted(states.PROPAGATE_STATES) == sorted({"FAILURE", "REVOKED"})


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_the_exceptions_have_celerys_names(name):
    assert issubclass(getattr(exceptions, name), Exception)
    assert name in exceptions.__all__
