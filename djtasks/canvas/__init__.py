"""What the caller builds of tasks: signatures, and chains, groups and chords of them.

All of it is data that holds task names; `plan` makes jobs of it.
"""

from djtasks.canvas.maps import chunks, xmap, xstarmap
from djtasks.canvas.primitives import chain, chord, group
from djtasks.canvas.signatures import Signature, maybe_signature, send_task, signature, subtask

__all__ = [
    "Signature",
    "chain",
    "chord",
    "chunks",
    "group",
    "maybe_signature",
    "send_task",
    "signature",
    "subtask",
    "xmap",
    "xstarmap",
]
