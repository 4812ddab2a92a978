"""Mail to ERROR_EMAILS: about each kind of failure now and then, from whichever worker."""

import threading
from datetime import timedelta

import pytest
from django.core import mail
from django.core.mail.backends.locmem import EmailBackend
from django.db import connections

from djtasks import reports, shared_task
from djtasks.brokers import get_broker
from djtasks.message import Message, new_id
from djtasks.models import FailureKind, Job, Worker
from djtasks.models.failure_kind import ALL, Sighting
from djtasks.testing import run_jobs
from tests import tasks
from tests.waiting import wait_until

ADDRESSES = ["ops@example.com", "dev@example.com"]
LOCMEM = "django.core.mail.backends.locmem.EmailBackend"


@pytest.fixture(autouse=True)
def addresses(settings, database):
    settings.DJTASKS = {**settings.DJTASKS, "ERROR_EMAILS": ADDRESSES}
    settings.EMAIL_BACKEND = LOCMEM
    mail.outbox = []


def later(seconds):
    """All that was seen and mailed happened so long before."""
    for row in FailureKind.objects.all():
        row.first_at -= timedelta(seconds=seconds)
        row.mailed_at = row.mailed_at and row.mailed_at - timedelta(seconds=seconds)
        row.save()


def fail(count=1, task=tasks.fail):
    for _ in range(count):
        task.delay()
    run_jobs()


@pytest.mark.every_broker
def test_a_failure_is_mailed_with_what_is_known_of_it(database):
    fail()
    assert reports.send_due() == 1
    (message,) = mail.outbox
    job = Job.objects.get()
    assert message.to == ADDRESSES
    assert message.from_email == "root@localhost"
    assert message.subject == "[Django] tests.tasks.fail: ValueError (1 failure)"
    for text in (
        job.pk,
        "tests/tasks.py",
        "in fail",
        "ValueError: ('broken', 42)",
        "Traceback",
        "--task tests.tasks.fail",
    ):
        assert text in message.body, message.body


@pytest.mark.every_broker
def test_one_kind_is_mailed_about_once_in_a_while_with_the_number_held_back(database):
    fail(3)
    assert reports.send_due() == 1
    fail(4)
    assert reports.send_due() == 0
    later(reports.EVERY + 1)
    fail()
    assert reports.send_due() == 1
    assert [each.subject.partition("(")[2] for each in mail.outbox] == ["3 failures)", "5 failures)"]
    assert "since the last mail about it" in mail.outbox[1].body
    later(reports.EVERY + 1)
    assert reports.send_due() == 0


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_task_exception_and_place_are_a_kind(database, own_tasks):
    @shared_task(name="twofold")
    def twofold(which):
        if which:
            raise ValueError("here")
        raise ValueError("there")

    for each in (0, 1, 1):
        twofold.delay(each)
    fail()
    assert reports.send_due() == 3
    assert sorted(each.subject for each in mail.outbox) == [
        "[Django] tests.tasks.fail: ValueError (1 failure)",
        "[Django] twofold: ValueError (1 failure)",
        "[Django] twofold: ValueError (2 failures)",
    ]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_there_is_a_limit_to_all_mails_together_and_the_last_says_so(database, monkeypatch, settings):
    monkeypatch.setattr(reports, "MOST", 2)
    get_broker().enqueue([Message(id=new_id(), task=f"gone{number}") for number in range(4)])
    settings.DJTASKS = {**settings.DJTASKS, "UNKNOWN_TASK_GRACE": 0}
    run_jobs()
    assert reports.send_due() == 2
    assert "failures of other kinds are told of later" in mail.outbox[-1].body
    assert "told of later" not in mail.outbox[0].body
    assert reports.send_due() == 0
    later(reports.PERIOD + 1)
    assert reports.send_due() == 2
    assert len({each.subject for each in mail.outbox}) == 4


def test_many_workers_send_one_mail(database):
    fail(5)
    barrier, sent = threading.Barrier(4), []

    def send():
        barrier.wait()
        sent.append(reports.send_due())
        connections.close_all()

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sent) == [0, 0, 0, 1]
    assert len(mail.outbox) == 1
    assert FailureKind.objects.get(pk=ALL).count == 1


def test_failures_are_counted_by_many_at_a_time(database):
    sighting = Sighting("t", "ValueError", "p", "1")

    def note():
        for _ in range(10):
            FailureKind.objects.all().note(sighting, 2)
        connections.close_all()

    threads = [threading.Thread(target=note) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert FailureKind.objects.get().count == 80


class Broken(EmailBackend):
    """A mail server that is away."""

    def send_messages(self, messages):
        raise ConnectionRefusedError("no SMTP here")


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_mail_that_cannot_be_sent_is_not_lost(database, settings):
    settings.EMAIL_BACKEND = f"{__name__}.Broken"
    fail(2)
    assert reports.send_due() == 0
    fail()
    settings.EMAIL_BACKEND = LOCMEM
    assert reports.send_due() == 0  # in a minute
    later(reports.AGAIN_AFTER + 1)
    assert reports.send_due() == 1
    assert "(3 failures)" in mail.outbox[0].subject
    assert FailureKind.objects.get(pk=ALL).count == 1


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_sensitive_arguments_are_masked_and_gone_from_the_error_too(database, own_tasks):
    @shared_task(name="pay", sensitive_arguments=["iban"])
    def pay(order, iban, password="", note=""):
        raise ValueError(f"cannot pay {order} from {iban} by {password} for {note}")

    pay.delay(7, "DE02 1203", password="hunter2", note={"token": "abcdef"})
    run_jobs()
    reports.send_due()
    body = mail.outbox[0].body
    assert "Arguments: 7, ********, password=********, note={'token': '********'}" in body
    assert "cannot pay 7 from ******** by ******** for {'token': '********'}" in body
    assert not any(secret in body for secret in ("DE02", "hunter2", "abcdef"))


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_mail_does_not_go_through_the_jobs_whose_failure_it_tells(database, settings):
    settings.EMAIL_BACKEND = "djtasks.mail.EmailBackend"
    settings.DJTASKS = {**settings.DJTASKS, "EMAIL_BACKEND": LOCMEM}
    fail()
    assert reports.send_due() == 1
    assert len(mail.outbox) == 1
    assert Job.objects.count() == 1


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_without_addresses_nothing_is_counted(database, settings):
    settings.DJTASKS = {**settings.DJTASKS, "ERROR_EMAILS": []}
    fail()
    assert not FailureKind.objects.exists()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_cannot_be_counted_harms_no_job(database, monkeypatch):
    monkeypatch.setattr(reports, "_sighting", lambda outcome: 1 / 0)
    fail()
    assert Job.objects.get().state == "FAILURE"


@pytest.mark.every_broker("redis")
def test_a_worker_mails_what_fails_and_what_dies(start_worker, database, tmp_path):
    settings_of = {"ERROR_EMAILS": ADDRESSES, "TASK_MAX_LOSSES": 1}
    folder = tmp_path / "mails"
    worker = start_worker("-c", "1", env={"DJTASKS_TEST_MAIL_FOLDER": str(folder)}, **settings_of)
    tasks.fail.delay()
    tasks.kill_own_process.delay(str(tmp_path / "journal"))

    def subjects():
        lines = [line for file in folder.glob("*") for line in file.read_text().splitlines()]
        return sorted(line for line in lines if line.startswith("Subject:"))

    wait_until(lambda: len(subjects()) == 2, what="two mails", seconds=20)
    assert subjects() == [
        "Subject: [Django] tests.tasks.fail: ValueError (1 failure)",
        "Subject: [Django] tests.tasks.kill_own_process: WorkerLostError (1 failure)",
    ]
    assert Worker.objects.filter(pid=worker.pid, stopped_at=None).exists()
