"""The shop's pages: each answers, queues its job, and shows what became of it."""

import csv
import re

import pytest
from django.core import mail
from django.http import HttpResponse
from django.urls import reverse

from demo_project.shop.middleware import POLICY, content_security_policy
from demo_project.shop.models import Customer
from demo_project.shop.views import PAGES
from djtasks.models import Job
from djtasks.testing import run_jobs

pytestmark = pytest.mark.django_db(transaction=True)

FORMS = {
    "sign-up": {"name": "Ada", "email": "ada@example.com"},
    "payment": {"amount": "19.90"},
    "sum": {"below": "100"},
}
OUTCOMES = {
    "sign-up": "Sent to ada@example.com",
    "export": "Download 20000 orders",
    "export-in-parts": "Download 20000 orders",
    "thumbnails": "-6.png",
    "payment": "Paid €19.90 at try 3.",
    "failure": "The teapot is sold out",
    "sum": "<strong>1060</strong>",
}


@pytest.fixture(autouse=True)
def _shop(settings, tmp_path, monkeypatch):
    settings.MEDIA_ROOT = str(tmp_path)
    settings.EMAIL_BACKEND = "djtasks.mail.EmailBackend"
    settings.DJTASKS = {**settings.DJTASKS, "EMAIL_BACKEND": "django.core.mail.backends.locmem.EmailBackend"}
    monkeypatch.setattr("demo_project.shop.tasks.PAUSE", 0)


def press(client, slug):
    """Press the button of a page; returns the address of the page that shows the job."""
    answer = client.post(reverse(slug), FORMS.get(slug, {}))
    assert answer.status_code == 302, answer.content.decode()
    return answer.url


def test_the_start_page_leads_to_all_pages(client):
    text = client.get("/").content.decode()
    assert all(f'href="{reverse(page.slug)}"' in text and page.title in text for page in PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.slug)
def test_each_page_has_its_button(client, page):
    assert f"<button>{page.button}</button>" in client.get(reverse(page.slug)).content.decode()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.slug)
def test_a_button_queues_one_job_and_leads_to_it(client, page):
    address = press(client, page.slug)
    job = Job.objects.get()
    assert (job.task, address) == (page.task, reverse(page.slug, args=[job.id]))
    text = client.get(address).content.decode()
    assert "PENDING" in text
    assert "<progress" in text
    assert f'data-standing="/jobs/{job.id}.json"' in text
    assert f'href="/admin/djtasks/job/{job.id}/change/"' in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.slug)
def test_a_page_shows_what_became_of_its_job(client, page):
    address = press(client, page.slug)
    run_jobs()
    text = client.get(address).content.decode()
    assert OUTCOMES[page.slug] in text
    assert "job.js" not in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.slug)
def test_pages_have_no_inline_script_or_style(client, page):
    text = client.get(press(client, page.slug)).content.decode()
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", text)


def test_a_wrong_form_queues_nothing(client):
    answer = client.post(reverse("sum"), {"below": "-1"})
    assert answer.status_code == 200
    assert "errorlist" in answer.content.decode()
    assert not Job.objects.exists()


def test_signing_up_saves_the_customer_and_queues_the_mail_together(client):
    press(client, "sign-up")
    assert Customer.objects.get().email == "ada@example.com"
    assert not mail.outbox
    run_jobs()
    assert [each.to for each in mail.outbox] == [["ada@example.com"]]


def test_an_address_can_sign_up_once(client):
    press(client, "sign-up")
    assert client.post(reverse("sign-up"), FORMS["sign-up"]).status_code == 200
    assert Job.objects.count() == 1


def test_a_page_refuses_the_job_of_another_page(client):
    press(client, "export")
    assert client.get(reverse("payment", args=[Job.objects.get().id])).status_code == 404


def test_the_json_tells_how_far_a_job_is(client):
    press(client, "export")
    job = Job.objects.get()
    Job.objects.update(state="STARTED", custom_state="PROGRESS", meta='{"done":500,"total":20000}', retries=1)
    assert client.get(reverse("job_standing", args=[job.id])).json() == {
        "id": job.id,
        "state": "PROGRESS",
        "ready": False,
        "retries": 1,
        "done": 500,
        "total": 20000,
    }
    text = client.get(reverse("export", args=[job.id])).content.decode()
    assert 'value="500" max="20000"' in text
    assert '<noscript><meta http-equiv="refresh"' in text


def test_the_json_tells_nothing_of_jobs_that_are_not_the_shops(client):
    press(client, "export")
    Job.objects.update(task="tests.tasks.noop")
    assert client.get(reverse("job_standing", args=[Job.objects.get().id])).status_code == 404


def test_the_export_can_be_downloaded(client):
    address = press(client, "export")
    run_jobs()
    link = re.search(r'href="(/files/exports/[^"]+)"', client.get(address).content.decode())[1]
    rows = list(csv.reader(b"".join(client.get(link).streaming_content).decode().splitlines()))
    assert len(rows) == 20_001
    assert rows[-1][0] == "20000"


@pytest.mark.parametrize("name", ["mail/a.log", "exports/../mail/a.log", "exports/..", "exports/none.csv", "a.log"])
def test_only_what_jobs_made_can_be_downloaded(client, tmp_path, name):
    for folder in ("mail", "exports"):
        (tmp_path / folder).mkdir()
    (tmp_path / "mail/a.log").write_text("secret")
    assert client.get(f"/files/{name}").status_code == 404


def test_answers_carry_the_content_security_policy_except_errors():
    codes = (200, 302, 404, 500)
    answers = [content_security_policy(lambda request, code=code: HttpResponse(status=code))(None) for code in codes]
    assert [answer.headers.get("Content-Security-Policy") for answer in answers] == [POLICY, POLICY, None, None]
