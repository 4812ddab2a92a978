"""Where arguments must not be seen: rows that are kept, pages, logs, mails, errors; and passwords of servers."""

import html
import logging
from io import StringIO

import django
import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.test import Client, override_settings
from django.utils.log import AdminEmailHandler
from django.views.decorators.debug import sensitive_variables

from djtasks import chain, control, shared_task, states
from djtasks.brokers import get_broker
from djtasks.exceptions import BrokerUnavailable, ImproperlyConfigured
from djtasks.message import Message, new_id
from djtasks.models import Job
from djtasks.models.job import NOT_KEPT
from djtasks.testing import run_jobs
from tests.canvas.tasks import errback_of_request, identity
from tests.tasks import add

SECRET = "hunter2-and-more"


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.DEBUG, "djtasks")
    return caplog


def secret_task(**options):
    @shared_task(name="log_in", **options)
    def log_in(user, password, fails=False):
        if fails:
            raise ValueError("refused")
        return user

    return log_in


# store_arguments=False


@pytest.mark.every_broker
@pytest.mark.parametrize("fails", [False, True])
def test_arguments_that_are_not_to_be_kept_go_at_the_end_and_not_before(broker, own_tasks, fails):
    job_id = secret_task(store_arguments=False).delay("ann", SECRET, fails=fails).id
    if broker.transactional:
        assert SECRET in Job.objects.get(pk=job_id).args
    run_jobs()
    job = Job.objects.get(pk=job_id)
    assert job.state == (states.FAILURE if fails else states.SUCCESS)
    assert (job.args, job.kwargs, job.keeps_arguments) == (NOT_KEPT, NOT_KEPT, False)
    assert job.arguments() == ([], {})
    assert not any(SECRET in str(value) for value in Job.objects.values().get(pk=job_id).values())


@pytest.mark.every_broker
def test_what_has_lost_its_arguments_is_not_retried_and_others_are(broker, own_tasks):
    task = secret_task(store_arguments=False)
    lost, kept = task.delay("ann", SECRET, fails=True), add.delay(1, "x")
    run_jobs()
    assert control.retry([lost.id, kept.id]) == 1
    assert Job.objects.get(pk=lost.id).state == states.FAILURE
    assert Job.objects.get(pk=kept.id).state == states.PENDING


@pytest.mark.every_broker
def test_a_retry_of_the_task_s_own_has_its_arguments_until_it_ends(broker, own_tasks):
    seen = []

    @shared_task(name="again", bind=True, store_arguments=False, max_retries=2)
    def again(self, password):
        seen.append(password)
        raise self.retry(countdown=0)

    job_id = again.delay(SECRET).id
    run_jobs()
    assert seen == [SECRET] * 3
    assert Job.objects.get(pk=job_id).args == NOT_KEPT


@pytest.mark.every_broker
def test_in_a_chain_the_next_step_goes_on_though_the_first_forgets_its_arguments(broker, own_tasks):
    task = secret_task(store_arguments=False)
    result = chain(task.s("ann", SECRET), identity.s()).apply_async()
    run_jobs()
    assert result.get(timeout=1) == "ann"
    assert Job.objects.get(pk=result.parent.id).args == NOT_KEPT


@pytest.mark.every_broker
def test_what_is_cancelled_forgets_its_arguments_too(broker, own_tasks):
    result = secret_task(store_arguments=False).delay("ann", SECRET)
    result.revoke()
    run_jobs()
    assert Job.objects.get(pk=result.id).args == NOT_KEPT


@pytest.mark.every_broker
def test_an_error_callback_of_the_newer_style_is_called_without_them(broker, own_tasks, tmp_path):
    path = tmp_path / "notes"
    task = secret_task(store_arguments=False)
    task.apply_async(("ann", SECRET), {"fails": True}, link_error=errback_of_request.s(str(path)))
    run_jobs()
    assert "ValueError True" in path.read_text()
    assert SECRET not in path.read_text()


# Pages


@pytest.fixture
def reader(db):
    """Somebody who may see arguments."""
    user = User.objects.create(username="ann", is_staff=True)
    names = ("view_job", "view_job_arguments")
    user.user_permissions.set(Permission.objects.filter(content_type__app_label="djtasks", codename__in=names))
    client = Client()
    client.force_login(user)
    return client


def page_of(client, job_id):
    return html.unescape(client.get(f"/admin/djtasks/job/{job_id}/change/").text)


def test_the_arguments_of_later_steps_and_callbacks_are_masked_on_the_page_of_the_first(reader, own_tasks):
    task = secret_task(sensitive_arguments=["user"])
    steps = chain(add.s(1, 2), task.si("the-user", SECRET), task.si("the-user", password=SECRET))
    first = steps.apply_async(link_error=task.si("the-user", SECRET))
    page = page_of(reader, first.parent.parent.id)
    assert "log_in" in page
    assert SECRET not in page
    assert "the-user" not in page


def test_a_page_says_that_arguments_were_not_kept_and_offers_no_retry(reader, own_tasks):
    user = User.objects.get()
    user.user_permissions.add(Permission.objects.get(codename="retry_job"))
    job_id = secret_task(store_arguments=False).delay("ann", SECRET).id
    run_jobs()
    page = page_of(reader, job_id)
    assert "They were not kept" in page
    assert "/retry/" not in page


# Django's sensitive_variables


def of_kind(kind):
    if kind == "async":

        @shared_task(name="pay")
        @sensitive_variables("card")
        async def pay(order, card):
            raise ValueError("refused")
    elif kind == "all":

        @shared_task(name="pay")
        @sensitive_variables()
        def pay(order, card):
            raise ValueError("refused")
    elif kind == "bound":

        @shared_task(name="pay", bind=True)
        @sensitive_variables("card")
        def pay(self, order, card):
            raise ValueError("refused")
    else:

        @shared_task(name="pay")
        @sensitive_variables("card")
        def pay(order, card):
            raise ValueError("refused")

    return pay


@pytest.mark.parametrize("kind", ["plain", "bound", "async", "all"])
def test_what_sensitive_variables_names_is_masked_like_sensitive_arguments(reader, own_tasks, kind):
    task = of_kind(kind)
    assert "card" in task.sensitive_arguments
    assert ("order" in task.sensitive_arguments) is (kind == "all")
    job_id = task.delay("the-order", SECRET).id
    run_jobs()
    page = page_of(reader, job_id)
    assert SECRET not in page
    assert ("the-order" in page) is (kind != "all")


@pytest.mark.parametrize("kind", ["plain", "bound", "async"])
def test_a_mail_of_the_log_with_all_variables_does_not_show_them(db, own_tasks, kind, settings, mailoutbox):
    """Nor those of our own frames, which are the arguments."""
    settings.ADMINS = ["ann@example.com"] if django.VERSION >= (6, 0) else [("Ann", "ann@example.com")]
    handler = AdminEmailHandler(include_html=True)
    logger = logging.getLogger("djtasks.execution")
    logger.addHandler(handler)
    try:
        of_kind(kind).delay("the-order", SECRET)
        run_jobs()
    finally:
        logger.removeHandler(handler)
    (message,) = mailoutbox
    texts = [message.body, *(content for content, _kind in message.alternatives)]
    assert any("refused" in text for text in texts)
    assert not any(SECRET in text for text in texts)


# Logs and errors


def test_logs_and_errors_of_retries_mask_arguments(db, own_tasks, log):
    seen = []

    @shared_task(name="log_in", bind=True, max_retries=0, sensitive_arguments=["user"])
    def log_in(self, user, password):
        seen.append(repr(self.request))
        raise self.retry()

    result = log_in.delay("the-user", password=SECRET)
    run_jobs()
    assert "args=['********'] kwargs={'password': '********'}" in seen[0]
    job = Job.objects.get(pk=result.id)
    assert "Can't retry log_in" in job.exception_message
    for text in (log.text, job.exception_message, job.traceback, seen[0]):
        assert SECRET not in text
        assert "the-user" not in text


@pytest.mark.parametrize("database", ["redis"], indirect=True)
@pytest.mark.parametrize(
    "fields",
    [
        {"kwargs": '{"password": "SECRET"'},
        {"kwargs": '{"password": "SECRET"}', "headers": "[]"},
        {"options": '{"link": {"kwargs": {"password": "SECRET"}}}'},
        {"options": '{"chain": ["{\\"password\\": \\"SECRET\\""]}'},
        {"kwargs": '{"password": "SECRET"}', "priority": 1000},
    ],
    ids=["no JSON", "headers", "link", "chain", "field"],
)
def test_what_cannot_be_read_is_quoted_without_passwords(database, log, fields):
    fields = {name: value.replace("SECRET", SECRET) if name != "priority" else value for name, value in fields.items()}
    get_broker().enqueue([Message(id=new_id(), task=identity.name, args="[1]", **fields)])
    run_jobs()
    job = Job.objects.get()
    for text in (log.text, job.exception_message or "", job.traceback or ""):
        assert SECRET not in text


# Passwords of servers

URLS = [
    "redis://:%s@127.0.0.1:1/0",
    "redis://ann:%s@127.0.0.1:1/0",
    "redis://127.0.0.1:1/0?password=%s",
    "rediss://ann:%s@127.0.0.1:1/0",
    "redis+sentinel://:%s@127.0.0.1:1/0?service=x",
    "redis+sentinel://127.0.0.1:1/0?service=x&sentinel_password=%s",
    "redis+cluster://:%s@127.0.0.1:1",
]
UNREADABLE = [
    "redis://:%s@127.0.0.1:1/no-number",
    "redis://:%s@127.0.0.1:1/0?nonsense=1",
    "redis://:%s@127.0.0.1:port/0",
    "redis+sentinel://:%s@127.0.0.1:1/0",
    "redis+cluster://:%s@127.0.0.1:1/5",
    "amqp://ann:%s@127.0.0.1//",
]


def said_by_checks():
    out = StringIO()
    try:
        call_command("check", stdout=out, stderr=out)
    except Exception as error:
        out.write(str(error))
    return out.getvalue()


@pytest.mark.parametrize("url", URLS)
def test_the_password_of_a_broker_that_does_not_answer_is_in_no_error_and_on_no_page(url, db, settings, log):
    chosen = {**settings.DJTASKS, "BROKER_URL": url % SECRET, "TEST_BROKER_URL": url % SECRET, "BROKER_TIMEOUT": 0.2}
    root = User.objects.create(username="root", is_staff=True, is_superuser=True)
    client = Client()
    client.force_login(root)
    with override_settings(DJTASKS=chosen):
        texts = [said_by_checks()]
        with pytest.raises(BrokerUnavailable) as caught:
            get_broker().enqueue([Message(id=new_id(), task=add.name)])
        texts += [str(caught.value), repr(caught.value)]
        with pytest.raises(CommandError) as told:
            call_command("djtasks", "queues")
        texts += [str(told.value), client.get("/admin/djtasks/queue/").text, client.get("/admin/djtasks/job/").text]
    assert not any(SECRET in text for text in (*texts, log.text))


@pytest.mark.parametrize("url", UNREADABLE)
def test_the_password_of_a_url_that_cannot_be_read_is_in_no_error(url, settings, log):
    with override_settings(DJTASKS={**settings.DJTASKS, "BROKER_URL": url % SECRET, "TEST_BROKER_URL": url % SECRET}):
        texts = [said_by_checks()]
        with pytest.raises(ImproperlyConfigured) as caught:
            get_broker()
    assert not any(SECRET in text for text in (*texts, str(caught.value), log.text))
