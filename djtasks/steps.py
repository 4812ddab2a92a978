"""What follows a job in its chain, as it travels in the job's message."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from djtasks.exceptions import MalformedMessage

MOST_NEAR: Final = 8  # steps that stand as they are
MOST_FAR: Final = 4 * 1024 * 1024  # characters of steps that are compressed; more stand as they are, and count as such
FAR: Final = "later"  # the option with those that are
MARK: Final = f'"{FAR}":"'  # by which options have it, as text


@dataclass(frozen=True, slots=True)
class LaterSteps:
    """What follows a job in its chain: signatures as text, so that a step need not read those after the next.

    Each step's message holds all of it, which takes the server the longer the longer it is. So those `near` stand as
    they are, and those after them, of a long chain, compressed in `far`.
    """

    near: tuple[str, ...] = ()
    far: str = ""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> LaterSteps:
        """The rest of the chain of a job with these options."""
        return cls(tuple(options.get("chain") or ()), options.get(FAR) or "")

    def __bool__(self) -> bool:
        return bool(self.near)

    def as_options(self) -> dict[str, Any]:
        """What of it travels in the message's options."""
        return {"chain": list(self.near), **({FAR: self.far} if self.far else {})} if self.near else {}

    def texts(self) -> list[str]:
        """All steps. Raises MalformedMessage for what no sender of ours has written."""
        return [*self.near, *(_uncompressed(self.far) if self.far else ())]

    def after(self, steps: Iterable[str]) -> LaterSteps:
        """These steps, and then the rest."""
        near = (*steps, *self.near)
        if len(near) <= MOST_NEAR:
            return LaterSteps(near, self.far)
        far = [*near[MOST_NEAR:], *(_uncompressed(self.far) if self.far else ())]
        if sum(map(len, far)) > MOST_FAR:
            return LaterSteps((*near[:MOST_NEAR], *far))
        return LaterSteps(near[:MOST_NEAR], _compressed(far))

    def split(self) -> tuple[str, LaterSteps]:
        """The next step, and the rest after it."""
        following, *others = self.near
        if others or not self.far:
            return following, LaterSteps(tuple(others), self.far)
        return following, LaterSteps().after(_uncompressed(self.far))


def _compressed(steps: Sequence[str]) -> str:
    return base64.b64encode(zlib.compress(json.dumps(steps).encode(), 1)).decode()


def _uncompressed(text: str) -> list[str]:
    try:
        found = zlib.decompressobj()
        steps = json.loads(found.decompress(base64.b64decode(text, validate=True), 8 * MOST_FAR))
    except (zlib.error, binascii.Error, ValueError, RecursionError) as error:
        raise MalformedMessage(f"The later steps of a chain cannot be read: {error}") from None
    if not isinstance(steps, list) or not all(isinstance(each, str) for each in steps):
        raise MalformedMessage("The later steps of a chain are no list of texts.")
    return steps


def mentions(options: str, job_id: str) -> bool:
    """Whether options, as text, tell of a job: in a step that is compressed, too."""
    if job_id in options or MARK not in options:
        return job_id in options
    try:
        values = json.loads(options)
    except (ValueError, RecursionError):
        return False
    steps = spread(values).get("chain") if isinstance(values, dict) else None
    return isinstance(steps, list) and any(job_id in str(each) for each in steps)


def spread(options: dict[str, Any]) -> dict[str, Any]:
    """Options with all steps where the near ones stand; as they are if those cannot be read."""
    if not (isinstance(options.get(FAR), str) and isinstance(options.get("chain"), list)):
        return options
    try:
        texts = LaterSteps.of(options).texts()
    except MalformedMessage:
        return options
    return {**{name: value for name, value in options.items() if name != FAR}, "chain": texts}
