"""Celery's signals, as Django signals that keep what is connected to them."""

import gc

import pytest

from djtasks import signals
from djtasks.signals import Signal


def test_connect_is_a_bare_decorator_that_returns_the_receiver_and_keeps_it():
    signal, heard = Signal(), []

    def connect():
        @signal.connect
        def receiver(sender, **named):
            heard.append((sender, named["x"]))

        return receiver

    assert callable(connect())
    gc.collect()
    signal.notify("me", x=1)
    assert heard == [("me", 1)]


def test_connect_is_a_decorator_with_a_sender():
    signal, heard = Signal(), []
    sender = object()

    @signal.connect(sender=sender)
    def receiver(**named):
        heard.append(named["sender"])

    assert callable(receiver)
    signal.notify(object())
    signal.notify(sender)
    assert heard == [sender]


def test_connect_takes_receiver_and_sender_by_position():
    def receiver(**named):
        pass

    signal = Signal()
    assert signal.connect(receiver, "x") is receiver
    assert signal.disconnect(receiver, "x")


def test_a_sender_may_be_a_text_that_is_compared_by_its_letters():
    signal, heard = Signal(), []
    name = "".join(["shop.tasks", ".add"])
    receiver = signal.connect(lambda **named: heard.append(named["sender"]), sender=name)
    del name
    gc.collect()
    signal.notify("".join(["shop", ".tasks.add"]))
    signal.notify("shop.tasks.other")
    assert heard == ["shop.tasks.add"]
    assert signal.disconnect(receiver, sender="".join(["shop.", "tasks.add"]))
    assert not signal.receivers


def test_a_receiver_may_be_held_weakly():
    signal, heard = Signal(), []

    def connect():
        def receiver(**named):
            heard.append(1)

        signal.connect(receiver, weak=True)

    connect()
    gc.collect()
    signal.notify(None)
    assert heard == []


def test_a_receiver_connected_twice_under_one_uid_hears_once():
    signal, heard = Signal(), []
    for _ in range(2):
        signal.connect(lambda **named: heard.append(1), dispatch_uid="once")
    signal.notify(None)
    assert heard == [1]


def test_a_receiver_that_raises_is_logged_and_stops_nobody_else(caplog):
    signal, heard = Signal(), []

    @signal.connect
    def broken(**named):
        raise RuntimeError("broken receiver")

    signal.connect(lambda **named: heard.append(1))
    signal.notify(None)
    assert heard == [1]
    assert "broken receiver" in caplog.text


NAMES = (
    "before_task_publish", "after_task_publish", "task_prerun", "task_postrun", "task_success", "task_failure",
    "task_retry", "task_revoked", "task_received", "task_unknown", "task_rejected", "worker_init", "worker_ready",
    "worker_process_init", "worker_process_shutdown", "worker_shutting_down", "worker_shutdown", "heartbeat_sent",
    "beat_init", "setup_logging",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_signals_have_celerys_names(name):
    assert isinstance(getattr(signals, name), Signal)
