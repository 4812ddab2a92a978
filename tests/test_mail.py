"""Mail that goes through a job: all of it, as it was written."""

import email
import inspect
from email.mime.base import MIMEBase
from email.mime.image import MIMEImage
from email.mime.text import MIMEText

import django
import pytest
from django.core import mail
from django.core.mail import EmailMessage, EmailMultiAlternatives, mail_admins, send_mail
from django.utils.translation import gettext_lazy

from djtasks import encoding, masking, publish
from djtasks import mail as background
from djtasks.exceptions import BrokerUnavailable, ImproperlyConfigured
from djtasks.models import Job
from djtasks.testing import run_jobs

LOCMEM = "django.core.mail.backends.locmem.EmailBackend"


@pytest.fixture
def in_background(db, settings):
    settings.EMAIL_BACKEND = "djtasks.mail.EmailBackend"
    settings.DJTASKS = {**settings.DJTASKS, "EMAIL_BACKEND": LOCMEM}


def carried(message):
    """`message` after its journey through a queue."""
    return background.unpack(encoding.decode(encoding.encode(background.pack(message), tuples=True)))


def test_a_plain_message_arrives_as_it_was_written():
    message = EmailMessage(
        gettext_lazy("Yes"), "Body – ünï ✓", "Ann <ann@example.com>", ["bob@example.com"], bcc=["b@example.com"],
        cc=["c@example.com"], reply_to=["r@example.com"], headers={"X-Order": "17", "Message-ID": "<1@example.com>"},
    )  # fmt: skip
    back = carried(message)
    assert (back.subject, back.body, back.from_email) == ("Yes", "Body – ünï ✓", "Ann <ann@example.com>")
    assert back.recipients() == message.recipients()
    assert (back.cc, back.bcc, back.reply_to) == (["c@example.com"], ["b@example.com"], ["r@example.com"])
    assert back.extra_headers == {"X-Order": "17", "Message-ID": "<1@example.com>"}


def test_alternatives_and_content_type_arrive():
    message = EmailMultiAlternatives("s", "text", "a@example.com", ["b@example.com"])
    message.attach_alternative("<b>html</b>", "text/html")
    assert [tuple(each) for each in carried(message).alternatives] == [("<b>html</b>", "text/html")]
    html = EmailMessage("s", "<b>html</b>", "a@example.com", ["b@example.com"])
    html.content_subtype = "html"
    html.encoding = "iso-8859-1"
    back = carried(html)
    assert (back.content_subtype, back.encoding) == ("html", "iso-8859-1")


def test_attachments_arrive():
    message = EmailMessage("s", "b", "a@example.com", ["b@example.com"])
    message.attach("order.csv", "a;ü\n", "text/csv")
    message.attach("logo.png", b"\x89PNG\0\xff", "image/png")
    message.attach("unknown", b"\0\xff", None)
    assert [tuple(each) for each in carried(message).attachments] == [
        ("order.csv", "a;ü\n", "text/csv"),
        ("logo.png", b"\x89PNG\0\xff", "image/png"),
        ("unknown", b"\0\xff", "application/octet-stream"),
    ]


def test_an_attached_message_arrives():
    message = EmailMessage("outer", "b", "a@example.com", ["b@example.com"])
    message.attach("inner.eml", EmailMessage("inner", "text", "c@example.com", ["d@example.com"]), "message/rfc822")
    parsed = email.message_from_bytes(carried(message).message().as_bytes())
    inner = next(part for part in parsed.walk() if part.get_content_type() == "message/rfc822")
    assert inner.get_payload(0)["Subject"] == "inner"


@pytest.mark.skipif(django.VERSION >= (6, 0), reason="MIMEBase is deprecated there")
def test_a_part_keeps_headers_of_its_own():
    image = MIMEImage(b"\x89PNG", "png")
    image["Content-ID"] = "<logo>"
    image["Content-Disposition"] = "inline"
    message = EmailMultiAlternatives("s", "b", "a@example.com", ["b@example.com"], attachments=[image])
    message.attach(MIMEText("ünï", "plain", "utf-8"))
    back, text = carried(message).attachments
    assert isinstance(back, MIMEBase)
    assert (back["Content-ID"], back["Content-Disposition"]) == ("<logo>", "inline")
    assert (back.get_content_type(), back.get_payload(decode=True)) == ("image/png", b"\x89PNG")
    assert text.get_payload(decode=True).decode() == "ünï"
    whole = email.message_from_bytes(carried(message).message().as_bytes())
    assert "<logo>" in [part["Content-ID"] for part in whole.walk()]


@pytest.mark.skipif(django.VERSION < (6, 0), reason="only MIMEBase is a part there")
def test_a_modern_part_keeps_headers_of_its_own():
    part = email.message.MIMEPart()
    part.set_content(b"\x89PNG", "image", "png", disposition="inline", cid="<logo>")
    message = EmailMessage("s", "b", "a@example.com", ["b@example.com"], attachments=[part])
    whole = email.message_from_bytes(carried(message).message().as_bytes())
    assert "<logo>" in [each["Content-ID"] for each in whole.walk()]


def test_all_mail_of_a_site_becomes_jobs_and_is_delivered_by_them(in_background, settings):
    settings.ADMINS = ["ann@example.com"] if django.VERSION >= (6, 0) else [("Ann", "ann@example.com")]
    assert send_mail("one", "body", None, ["b@example.com"], html_message="<p>body</p>") == 1
    mail_admins("two", "body")
    EmailMessage("three", "body", None, ["b@example.com"]).send()
    assert mail.outbox == []
    assert set(Job.objects.values_list("task", flat=True)) == {"djtasks.mail.send"}
    assert run_jobs() == 3
    assert [message.subject for message in mail.outbox] == ["one", "[Django] two", "three"]
    assert mail.outbox[0].alternatives[0][0] == "<p>body</p>"


def test_a_message_to_nobody_is_not_queued(in_background):
    assert EmailMessage("s", "b").send() == 0
    assert mail.get_connection().send_messages([]) == 0
    assert not Job.objects.exists()


def test_several_messages_are_queued_together(in_background, django_assert_max_num_queries):
    messages = [EmailMessage(str(number), "b", None, ["b@example.com"]) for number in range(30)]
    with django_assert_max_num_queries(35):
        assert mail.get_connection().send_messages(messages) == 30
    assert Job.objects.count() == 30


def test_a_server_that_cannot_be_reached_is_tried_again(in_background, settings):
    settings.DJTASKS = {**settings.DJTASKS, "EMAIL_BACKEND": "tests.test_mail.Unreachable"}
    send_mail("s", "b", None, ["b@example.com"])
    run_jobs()
    job = Job.objects.get()
    assert (job.state, job.retries, job.exception) == ("FAILURE", 8, "ConnectionRefusedError")


class Unreachable:
    def __init__(self, **options):
        pass

    def send_messages(self, messages):
        raise ConnectionRefusedError("no server")


def test_a_broker_that_cannot_be_reached_is_passed_over_only_if_asked_to(in_background, monkeypatch):
    def fail(messages, **how):
        raise BrokerUnavailable("down")

    monkeypatch.setattr(publish, "publish", fail)
    with pytest.raises(BrokerUnavailable):
        send_mail("s", "b", None, ["b@example.com"])
    assert send_mail("s", "b", None, ["b@example.com"], fail_silently=True) == 0


@pytest.mark.skipif(django.VERSION < (6, 1), reason="MAILERS came with Django 6.1")
def test_a_mailer_in_the_background_hands_on_to_another(db, settings):
    settings.MAILERS = {
        "default": {"BACKEND": "djtasks.mail.EmailBackend", "OPTIONS": {"mailer": "real"}},
        "real": {"BACKEND": LOCMEM},
    }
    assert send_mail("Hello", "Body", "a@example.com", ["b@example.com"]) == 1
    assert mail.outbox == []
    assert run_jobs() == 1
    assert [each.subject for each in mail.outbox] == ["Hello"]


def test_what_a_mail_says_is_not_shown_to_whoever_sees_its_job(in_background):
    send_mail("Your password", "https://example.com/reset/abc", None, ["b@example.com"])
    job = Job.objects.get()
    task = background.send_mail
    args, kwargs = masking.masked_arguments(
        *job.arguments(), inspect.signature(task.run), sensitive=task.sensitive_arguments
    )
    assert (args, kwargs) == ([masking.MASK, ""], {})


@pytest.mark.skipif(django.VERSION < (6, 1), reason="MAILERS came with Django 6.1")
def test_a_mailer_that_does_not_say_what_delivers_is_an_error(db, settings):
    settings.MAILERS = {"default": {"BACKEND": "djtasks.mail.EmailBackend"}}
    with pytest.raises(ImproperlyConfigured, match="does not say what delivers"):
        send_mail("Hello", "Body", "a@example.com", ["b@example.com"])
