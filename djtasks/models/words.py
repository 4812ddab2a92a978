"""States written out in a statement: SQLite takes a partial index only where it sees the words of its condition."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from django.db.models import Q, Value

from djtasks import states


class Word(Value):
    """A state that is no parameter."""

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, tuple[str | int, ...]]:
        return f"'{self.value}'", ()


def among(words: Iterable[str]) -> Q:
    """Jobs in one of these states, in the order in which the index names them."""
    return Q(state__in=[Word(each) for each in words])


LATER: Final = among((states.SCHEDULED, states.RETRY))
AT_WORK: Final = among(states.RUNNING)
ENDED_OTHERWISE: Final = (states.FAILURE, states.REVOKED, states.IGNORED, states.REPLACED)  # djtasks_job_failed
OF_STATE: Final = {
    **dict.fromkeys((states.SCHEDULED, states.RETRY), LATER),
    **dict.fromkeys(states.RUNNING, AT_WORK),
}
