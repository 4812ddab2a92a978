"""The judge of the demo's results: it lets right ones pass and names what is wrong with others."""

from dataclasses import replace
from decimal import Decimal

import pytest
from PIL import Image

from demo_project.shop import orders, pictures, tasks
from demo_project.shop.samples import (
    ORDERS,
    PICTURES,
    PRIMES_SUM,
    SAMPLES,
    Ending,
    export_fault,
    failure_fault,
    mail_fault,
    payment_fault,
    sum_fault,
    thumbnails_fault,
    words,
)

MAIL = Ending("SUCCESS", 1, args=({"to": ["ada@example.com"]},))
EXPORT = Ending("SUCCESS", {"file": "exports/orders.csv", "rows": ORDERS})
THUMBNAILS = Ending("SUCCESS", {"files": [f"thumbnails/{number}.png" for number in range(PICTURES)]})
PAYMENT = Ending("SUCCESS", {"amount": Decimal("19.90"), "tries": 3}, retries=2)
FAILURE = Ending("FAILURE", tasks.OutOfStock("The teapot is sold out"))
SUM = Ending("SUCCESS", PRIMES_SUM)


@pytest.fixture(autouse=True)
def media(settings, tmp_path):
    """Everything that right results leave behind."""
    settings.MEDIA_ROOT = str(tmp_path)
    settings.EMAIL_FILE_PATH = str(tmp_path / "mail")
    settings.DJTASKS = {"EMAIL_BACKEND": "django.core.mail.backends.filebased.EmailBackend"}
    for folder in ("mail", "exports", "thumbnails"):
        (tmp_path / folder).mkdir()
    (tmp_path / "mail/1.log").write_text("Subject: Welcome\nTo: ada@example.com\n\nHello\n")
    with (tmp_path / "exports/orders.csv").open("w", newline="") as file:
        list(orders.write_csv(file, ORDERS, 500))
    for name in THUMBNAILS.value["files"]:
        pictures.thumbnail(Image.new("RGB", (64, 48))).save(tmp_path / name)
    return tmp_path


def test_right_results_have_no_fault():
    endings = (MAIL, EXPORT, EXPORT, THUMBNAILS, PAYMENT, FAILURE, SUM)
    assert [sample.fault(ending) for sample, ending in zip(SAMPLES, endings, strict=True)] == [""] * 7
    assert [words(sample, ending) for sample, ending in zip(SAMPLES, endings, strict=True)] == [
        "sent to ada@example.com",
        "20,000 rows in a CSV file",
        "20,000 rows of 8 jobs in one file",
        "6 pictures of 320 × 240",
        "€19.90 paid at try 3",
        "OutOfStock: The teapot is sold out",
        "the primes below 20,000,000 add up to 12,272,577,818,052",
    ]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.title)
@pytest.mark.parametrize(
    ("ending", "said"),
    [
        (Ending("PENDING", None), "PENDING"),
        (Ending("PROGRESS", {"done": 1, "total": 2}), "PROGRESS"),
        (Ending("RETRY", ValueError("again")), "RETRY"),
        (Ending("REVOKED", RuntimeError("revoked")), "REVOKED"),
    ],
)
def test_a_job_that_has_not_ended_well_is_a_fault(sample, ending, said):
    assert said in sample.fault(ending)


def test_a_mail_that_was_not_delivered_is_a_fault(media):
    (media / "mail/1.log").write_text("To: bob@example.com\n")
    assert "no mail to ada@example.com" in mail_fault(MAIL)


def test_mail_that_is_delivered_elsewhere_cannot_be_looked_at(media, settings):
    (media / "mail/1.log").unlink()
    settings.DJTASKS = {"EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend"}
    assert mail_fault(MAIL) == ""


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda lines: lines[:-1], "has 19999 rows"),
        (lambda lines: lines[1:], "begins with"),
        (lambda lines: [], "begins with"),
        (lambda lines: [*lines[:5], lines[6], lines[5], *lines[7:]], "out of order"),
        (lambda lines: [*lines[:-1], "20000,2026-01-01\n"], "incomplete"),
    ],
)
def test_a_spoilt_export_is_a_fault(media, spoil, said):
    path = media / "exports/orders.csv"
    path.write_text("".join(spoil(path.read_text().splitlines(keepends=True))))
    assert said in export_fault(EXPORT)


def test_a_missing_export_is_a_fault(media):
    (media / "exports/orders.csv").unlink()
    assert "does not exist" in export_fault(EXPORT)


def test_spoilt_thumbnails_are_faults(media):
    assert "5 pictures" in thumbnails_fault(Ending("SUCCESS", {"files": THUMBNAILS.value["files"][1:]}))
    Image.new("RGB", (1600, 1200)).save(media / "thumbnails/3.png")
    assert "measures (1600, 1200)" in thumbnails_fault(THUMBNAILS)
    (media / "thumbnails/2.png").write_bytes(b"\x89PNG and no more")
    assert "is no picture" in thumbnails_fault(THUMBNAILS)
    (media / "thumbnails/1.png").unlink()
    assert "1.png is no picture" in thumbnails_fault(THUMBNAILS)


def test_a_payment_must_take_three_tries():
    assert "not {" in payment_fault(replace(PAYMENT, value={"amount": Decimal("19.90"), "tries": 1}))
    assert "0 retries" in payment_fault(replace(PAYMENT, retries=0))


def test_the_task_that_fails_must_fail_with_its_own_exception():
    assert "should have failed" in failure_fault(Ending("SUCCESS", None))
    assert "not with OutOfStock" in failure_fault(Ending("FAILURE", ValueError("The teapot is sold out")))
    assert "the exception says" in failure_fault(Ending("FAILURE", tasks.OutOfStock("")))


def test_a_wrong_sum_is_a_fault():
    assert "the sum is 41" in sum_fault(Ending("SUCCESS", 41))


def by_division(below):
    return sum(number for number in range(2, below) if all(number % other for other in range(2, number)))


@pytest.mark.parametrize("below", [2, 3, 4, 5, 9, 10, 24, 25, 26, 100, 500, 501])
def test_the_sum_of_primes_is_right(below, monkeypatch):
    monkeypatch.setattr(tasks, "SEGMENT", 100)
    assert tasks.sum_primes(below) == by_division(below)


def test_a_file_that_could_not_be_finished_leaves_nothing(media, monkeypatch):
    monkeypatch.setattr(tasks.orders, "write_csv", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tasks.export_orders(10)
    assert [path.name for path in (media / "exports").iterdir()] == ["orders.csv"]
