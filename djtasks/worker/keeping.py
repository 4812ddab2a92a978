"""The loop of a keeper, with beat beside it: in a process of its own, or in a thread of the worker's."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

from django.utils.module_loading import import_string

from djtasks.worker.descriptors import readable
from djtasks.worker.keeper import Keeper
from djtasks.worker.options import WorkerOptions
from djtasks.worker.slots import Slots
from djtasks.worker.stops import take_signals


def keep(worker: str, number: int, slots: Slots, options: WorkerOptions, source: int, sink: int) -> None:
    """Be a worker's keeper in a process of its own, with the supervisor at the other ends of two pipes."""

    def say(word: dict[str, Any]) -> None:
        os.write(sink, json.dumps(word).encode() + b"\n")

    # It stops when the supervisor says so, after the children.
    take_signals(lambda *_: None)
    run_keeper(Keeper(worker, number, slots, options, say), source)


def run_keeper(keeper: Keeper, source: int | None, at_end: Callable[[], object] | None = None) -> None:
    """Loop until told to stop, with beat beside it. `source`: where the supervisor's words come, a JSON line each.

    At its end the supervisor is gone, and so are we; with `at_end`, that is called and the loop goes on.
    """
    if keeper.beat is not None:
        keeper.beat.start()
    if keeper.options.scrape is not None:
        import_string("djtasks.worker.scrape.serve")(keeper)  # only now, as it needs prometheus_client
    try:
        _keep(keeper, source, at_end)
    finally:
        if keeper.beat is not None:
            keeper.beat.stop()
    keeper.finish()


def _keep(keeper: Keeper, source: int | None, at_end: Callable[[], object] | None) -> None:
    rest = b""
    while not keeper.stopping:
        keeper.turn()
        if source is None:
            time.sleep(keeper.pause())
        elif readable([source], keeper.pause()):
            data = os.read(source, 65536)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                keeper.hear(json.loads(line))
            if not data:
                if at_end is None:
                    return
                at_end()
                source = None
