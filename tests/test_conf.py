"""The setting DJTASKS, merged with its defaults."""

from datetime import timedelta

import pytest

from djtasks import conf
from djtasks.brokers import broker_for, get_broker
from djtasks.brokers.database.broker import DatabaseBroker
from djtasks.exceptions import ImproperlyConfigured


def test_a_setting_that_is_not_given_has_its_default(settings):
    settings.DJTASKS = {}
    assert conf.settings.TASK_DEFAULT_QUEUE == "default"
    assert conf.settings.WORKER_LOST_AFTER == 10.0


def test_without_the_setting_at_all_the_defaults_count(settings):
    del settings.DJTASKS
    assert conf.settings.TASK_ACKS_LATE is True


def test_a_change_is_seen_at_once(settings):
    settings.DJTASKS = {"TASK_DEFAULT_QUEUE": "main"}
    assert conf.settings.TASK_DEFAULT_QUEUE == "main"
    settings.DJTASKS = {}
    assert conf.settings.TASK_DEFAULT_QUEUE == "default"


@pytest.mark.parametrize(("given", "seconds"), [(60, 60), (1.5, 1.5), (timedelta(days=1), 86400), (None, None), (0, 0)])
def test_results_expire_after_seconds_or_a_timedelta(settings, given, seconds):
    settings.DJTASKS = {"RESULT_EXPIRES": given}
    assert conf.settings.result_expires == seconds


def test_a_name_that_is_no_setting_is_an_error_that_names_the_nearest():
    with pytest.raises(AttributeError, match=r"no setting 'BROKER_ULR'\. Did you mean 'BROKER_URL'\?"):
        _ = conf.settings.BROKER_ULR


def test_what_is_no_dict_is_refused(settings):
    settings.DJTASKS = ["BROKER_URL"]
    with pytest.raises(ImproperlyConfigured, match="DJTASKS must be a dict, not list"):
        _ = conf.settings.BROKER_URL


def test_the_broker_url_names_the_broker():
    assert isinstance(broker_for("database://"), DatabaseBroker)
    assert isinstance(broker_for("database://default"), DatabaseBroker)


@pytest.mark.parametrize("url", ["amqp://guest@localhost//", "sqs://", "nonsense", ""])
def test_a_broker_url_that_none_fits_names_those_that_there_are(url):
    with pytest.raises(ImproperlyConfigured, match=r"which no broker of djtasks serves\. There are: .*database://"):
        broker_for(url)


def test_a_broker_on_another_database_than_the_tables_is_refused():
    with pytest.raises(ImproperlyConfigured, match="the tables are in 'default'"):
        broker_for("database://other")


def test_there_is_one_broker_a_process_until_the_setting_changes(settings):
    first = get_broker()
    assert get_broker() is first
    settings.DJTASKS = {}
    assert get_broker() is not first
