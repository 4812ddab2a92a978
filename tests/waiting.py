"""Waiting for a condition, with a deadline."""

import time


def wait_until(condition, seconds=20.0, what="the condition"):
    """Return the condition's first true answer; fail the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds} s (last answer: {answer!r})")
        time.sleep(0.01)
