"""Each address and each action of the app in the admin asks who may: those too that nobody has thought of here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission, User
from django.db.models import Model
from django.test import Client
from django.urls import URLPattern, URLResolver, reverse

from djtasks import states
from djtasks.models import Job, Limit, PeriodicTask, Queue, Task, Worker
from djtasks.models.fields import utc_now
from tests.admin.urls import staff

# An object of each model; a model that is registered and has none here fails the tests below.
MAKERS: dict[type[Model], Callable[[], Model]] = {
    Limit: lambda: Limit.objects.create(pk="shop.tasks.export", is_task=True, rate="1/s"),
    Job: lambda: Job.objects.create(
        pk="job", task="shop.tasks.export", queue="mail", state=states.FAILURE, finished_at=utc_now()
    ),
    PeriodicTask: lambda: PeriodicTask.objects.create(name="nightly", task="shop.tasks.export", schedule="every hour"),
    Queue: lambda: Queue.objects.create(pk="mail", paused=True),
    Task: lambda: Task.objects.create(task="shop.tasks.export", queue="mail", start_at=utc_now(), seconds=60),
    Worker: lambda: Worker.objects.create(pk="w", hostname="w", pid=1, queues="null", pool="prefork", concurrency=1),
}
ADDRESSED_BY = {Task: "task"}  # or else by the primary key
# What any form of ours may ask for.
FORM = {
    "post": "yes", "confirmed": "1", "target": "other", "task": "", "limit": "", "default_priority": "5",
    "name": "changed", "schedule": "every hour", "args": "[]", "kwargs": "{}", "headers": "{}", "catch_up": "one",
    "jitter": "0", "enabled": "on", "typed": "mail", "job": "later", "count": "1", "number": "1", "queue": "other",
    "rate": "5/m",
}  # fmt: skip
# What some pages ask for that others must not be given.
SCHEDULE = {"task": "shop.tasks.export", "catch_up": "once"}
FORMS = {"djtasks_periodictask_add": SCHEDULE, "djtasks_periodictask_change": SCHEDULE}
# Pages that do nothing with the object of their model that the others are tried with, and what they are tried with.
SUBJECTS = {
    "djtasks_job_cancel": "waits",
    "djtasks_job_stop": "runs",
    "djtasks_queue_pause": "open",
    "djtasks_worker_add_consumer": "serves",
}
# Pages that, posted to by somebody who may, change something, or the tests below would prove nothing; and who may.
PERMISSIONS = {
    "retry_job": ("job_retry", "job_all_retry"),
    "revoke_job": ("job_cancel", "job_stop", "job_all_cancel", "job_all_stop"),
    "delete_job": ("job_delete", "job_all_delete"),
    "pause_queue": ("queue_pause", "queue_resume"),
    "purge_queue": ("queue_purge",),
    "change_queue": ("queue_move", "queue_set", "queue_run_now"),
    "send_task": ("task_send", "job_again"),
    "view_job_arguments": ("job_again",),
    "change_limit": ("task_rate",),
    "control_worker": tuple(
        f"worker_{name}"
        for name in ("shutdown", "pool_restart", "pool_grow", "pool_shrink", "add_consumer", "cancel_consumer")
    ),
    "run_periodictask": ("periodictask_run",),
    "add_periodictask": ("periodictask_add",),
    "change_periodictask": ("periodictask_disable", "periodictask_change"),
    "delete_periodictask": ("periodictask_delete",),
}
NEEDED = [(f"djtasks_{name}", codename) for codename, names in PERMISSIONS.items() for name in names]
CHANGES = {name for name, _codename in NEEDED}


def patterns(given: Any) -> Iterator[URLPattern]:
    for each in given:
        if isinstance(each, URLResolver):
            yield from patterns(each.url_patterns)
        elif each.name and each.name.startswith("djtasks_"):
            yield each


PAGES = sorted((each.name, bool(each.pattern.converters)) for each in patterns(staff.get_urls()))
NAMES = [name for name, _takes in PAGES]
ACTIONS = [
    (model, name)
    for model, model_admin in staff._registry.items()
    if model._meta.app_label == "djtasks"
    for name in model_admin.actions
]


@pytest.fixture(autouse=True)
def things(db: None) -> dict[str, Model]:
    """An object of each registered model by the model's name; a waiting and a running job, a schedule that rests."""
    ours = {model for model in staff._registry if model._meta.app_label == "djtasks"}
    PeriodicTask.objects.create(name="rests", task="shop.tasks.export", schedule="every hour", enabled=False)
    Job.objects.create(pk="waits", task="shop.tasks.export", queue="mail")
    later = utc_now() + timedelta(hours=1)
    Job.objects.create(pk="later", task="shop.tasks.export", queue="mail", state=states.SCHEDULED, run_at=later)
    Job.objects.create(pk="runs", task="shop.tasks.export", queue="mail", state=states.STARTED, worker="w.1")
    Queue.objects.create(pk="open")
    Worker.objects.create(pk="serves", hostname="s", pid=2, queues='["mail"]', pool="prefork", concurrency=1)
    return {model._meta.model_name: make() for model, make in MAKERS.items() if model in ours}


@pytest.fixture
def address(things: dict[str, Model]) -> Callable[..., str]:
    def of(name: str, takes_object: bool) -> str:
        thing = things.get(name.split("_")[1])
        subject = SUBJECTS.get(name) or getattr(thing, ADDRESSED_BY.get(type(thing), "pk"))
        args = [quote(subject)] if takes_object else []
        return reverse(f"admin:{name}", args=args, current_app="staff")

    return of


def addresses(name: str) -> list[str]:
    """Of a page about an object, those of all objects."""
    if not dict(PAGES)[name]:
        return [reverse(f"admin:{name}", current_app="staff")]
    model = next(each for each in MAKERS if each._meta.model_name == name.split("_")[1])
    ids = model._default_manager.values_list(ADDRESSED_BY.get(model, "pk"), flat=True)
    return [reverse(f"admin:{name}", args=[quote(pk)], current_app="staff") for pk in ids]


def everything() -> dict[str, Any]:
    """All rows that somebody could change."""
    rows = {model.__name__: list(model.objects.order_by("pk").values()) for model in MAKERS}
    return {**rows, "log": list(LogEntry.objects.values())}


def form_of(name: str) -> dict[str, str]:
    return {**FORM, **FORMS.get(name, {})}


def client_of(*codenames: str, superuser: bool = False, csrf: bool = False) -> Client:
    user = User.objects.create(username="ann", is_staff=True, is_superuser=superuser)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client = Client(enforce_csrf_checks=csrf)
    client.force_login(user)
    return client


VIEWS = [f"view_{model._meta.model_name}" for model in MAKERS]


def test_of_each_model_that_is_registered_an_object_is_tried() -> None:
    ours = {model for model in staff._registry if model._meta.app_label == "djtasks"}
    assert ours <= MAKERS.keys(), "Say in MAKERS how an object of the new model is made."


def test_the_pages_that_are_known_are_among_those_that_are_tried() -> None:
    assert set(NAMES) >= CHANGES
    assert {"djtasks_worker_changelist", "djtasks_job_change", "djtasks_periodictask_preview"} <= set(NAMES)


@pytest.mark.parametrize(("name", "takes_object"), PAGES, ids=NAMES)
def test_nobody_gets_anywhere_without_logging_in(address: Any, name: str, takes_object: bool) -> None:
    before, url, client = everything(), address(name, takes_object), Client()
    for response in (client.get(url), client.post(url, form_of(name))):
        assert response.status_code == 302
        assert response["Location"].startswith("/staff/login/")
    assert everything() == before


@pytest.mark.parametrize(("name", "takes_object"), PAGES, ids=NAMES)
def test_staff_without_permissions_gets_nowhere(address: Any, name: str, takes_object: bool) -> None:
    before, url, client = everything(), address(name, takes_object), client_of()
    assert client.get(url).status_code in (403, 405)
    assert client.post(url, form_of(name)).status_code in (403, 405)
    assert everything() == before


@pytest.mark.parametrize(("name", "takes_object"), PAGES, ids=NAMES)
def test_who_may_only_look_changes_nothing(address: Any, name: str, takes_object: bool) -> None:
    before, url, client = everything(), address(name, takes_object), client_of(*VIEWS, "view_job_arguments")
    client.get(url)
    client.post(url, form_of(name))
    assert everything() == before


@pytest.mark.parametrize(("name", "takes_object"), PAGES, ids=NAMES)
def test_a_link_changes_nothing_whoever_follows_it(address: Any, name: str, takes_object: bool) -> None:
    before, url, client = everything(), address(name, takes_object), client_of(superuser=True)
    assert client.get(url).status_code in (200, 302, 403, 405)
    assert client.get(url, form_of(name)).status_code in (200, 302, 400, 403, 405)
    assert everything() == before


@pytest.mark.parametrize(("name", "takes_object"), PAGES, ids=NAMES)
def test_a_form_of_another_site_is_refused(address: Any, name: str, takes_object: bool) -> None:
    before, url, client = everything(), address(name, takes_object), client_of(superuser=True, csrf=True)
    assert client.post(url, form_of(name)).status_code == 403
    assert everything() == before


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_who_may_does_it_by_these_forms(address: Any, name: str) -> None:
    before, url = everything(), address(name, dict(PAGES)[name])
    assert client_of(superuser=True).post(url, form_of(name)).status_code in (200, 302)
    assert everything() != before


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_it_takes_just_the_permission_that_the_docs_name(address: Any, name: str) -> None:
    needed = [codename for other, codename in NEEDED if other == name]
    before, url = everything(), address(name, dict(PAGES)[name])
    assert client_of(*VIEWS, *needed).post(url, form_of(name)).status_code in (200, 302)
    assert everything() != before


@pytest.mark.parametrize(("name", "lacking"), NEEDED)
def test_no_other_permission_does_instead(address: Any, name: str, lacking: str) -> None:
    before, url = everything(), address(name, dict(PAGES)[name])
    ours = Permission.objects.filter(content_type__app_label="djtasks").values_list("codename", flat=True)
    assert client_of(*(set(ours) - {lacking})).post(url, form_of(name)).status_code in (302, 403)
    assert everything() == before


@pytest.mark.parametrize(("model", "action"), ACTIONS, ids=[f"{model.__name__}-{name}" for model, name in ACTIONS])
@pytest.mark.parametrize("across", ["0", "1"])
def test_each_action_is_refused_to_who_may_only_look(
    address: Any, model: type[Model], action: str, across: str
) -> None:
    before, url = everything(), address(f"djtasks_{model._meta.model_name}_changelist", False)
    ids = [str(pk) for pk in model._default_manager.values_list("pk", flat=True)]
    data = {**FORM, "action": action, "_selected_action": ids, "select_across": across}
    client = client_of(*VIEWS, "view_job_arguments")
    client.post(url, data)
    assert everything() == before
    User.objects.all().delete()
    client_of(superuser=True).post(url, data)
    assert everything() != before, "The action did nothing for somebody who may: the test proves nothing."


HOSTILE = "<script>alert(1)</script>'\"&{{ 7 }}%s\u202e"


@pytest.mark.parametrize("name", [name for name, takes in PAGES])
def test_hostile_names_and_arguments_are_escaped_everywhere(name: str, things: Any) -> None:
    client = client_of(superuser=True)
    Job.objects.filter(pk="job").update(
        task=HOSTILE, queue=HOSTILE, args=f'["{HOSTILE[:25]}"]', exception=HOSTILE, exception_message=HOSTILE,
        traceback=HOSTILE, worker=HOSTILE, enqueued_by=HOSTILE, periodic_task=HOSTILE, headers='{"<script>": 1}',
        result='"<script>alert(1)</script>"', meta='"<script>"', parent_id="<script>", root_id="<script>",
        group_id="<script>", attempts='[{"error": "<script>", "worker": "<script>", "ending": "<script>"}]',
        custom_state="<script>", options='{"link": [{"task": "<script>", "args": ["<script>"], "kwargs": {}}]}',
    )  # fmt: skip
    Job.objects.filter(pk="waits").update(task=HOSTILE, queue=HOSTILE, args='["<script>"]')
    Worker.objects.update(hostname=HOSTILE, queues='["<script>"]', version="<script>")
    PeriodicTask.objects.update(task=HOSTILE, args='["<script>"]', problem=HOSTILE, queue=HOSTILE)
    PeriodicTask.objects.filter(name="nightly").update(name=HOSTILE)
    Task.objects.update(task=HOSTILE)
    Queue.objects.create(pk=HOSTILE, paused=True, paused_by=HOSTILE)
    Limit.objects.create(pk=HOSTILE, is_task=True, rate="<script>", declared="<script>")
    for url in addresses(name):
        page = client.get(url, follow=True).text
        assert "<script>alert" not in page
        assert '"<script>' not in page


MARK = "only-for-readers"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("may_read", [True, False], ids=["may read", "may not"])
def test_arguments_and_results_are_shown_only_to_who_may_read_them(name: str, may_read: bool, things: Any) -> None:
    quoted = f'["{MARK}"]'
    Job.objects.update(
        args=quoted, kwargs=f'{{"x": "{MARK}"}}', result=quoted, exception="ValueError", exception_message=MARK,
        traceback=MARK, meta=quoted, headers=f'{{"x": "{MARK}"}}', options=f'{{"link": [{{"args": {quoted}}}]}}',
        attempts=f'[{{"token": 1, "error": "ValueError: {MARK}", "ending": "LOST"}}]',
    )  # fmt: skip
    PeriodicTask.objects.update(args=quoted, kwargs=f'{{"x": "{MARK}"}}', headers=f'{{"x": "{MARK}"}}')
    ours = Permission.objects.filter(content_type__app_label="djtasks").values_list("codename", flat=True)
    # Who may change a schedule sees what it says.
    everything_else = set(ours) - {"view_job_arguments", "add_periodictask", "change_periodictask"}
    client = client_of(*everything_else, *(["view_job_arguments"] if may_read else []))
    pages = []
    for url in addresses(name):
        pages += [client.get(url, follow=True).text, client.get(f"{url}?args=1", follow=True).text]
    if not may_read:
        assert not any(MARK in page for page in pages)
    elif name in ("djtasks_job_change", "djtasks_periodictask_change"):
        assert any(MARK in page for page in pages)
