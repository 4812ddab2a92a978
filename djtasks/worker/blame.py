"""Who is to blame for an error of the database: what was to be written, or the store, for the moment.

The data are refused again whenever they come, so a job must end without them; a store is waited for.
"""

from __future__ import annotations

from typing import Final

from django.db import DatabaseError, DataError, IntegrityError, InterfaceError, InternalError, ProgrammingError

# Classes of SQLSTATE (PostgreSQL's manual, appendix A)
NO_TRANSACTION: Final = "25"  # the session's state, such as a server that takes no writes
MISSING: Final = "42"  # a table, a column or a right
TOO_MUCH: Final = "54"  # a limit of the server's, such as the length of a text

# Numbers of MySQL's and MariaDB's errors
REFUSED: Final = (1118, 1300, 1366)  # a row too large for the log, characters that the session's charset has not
MISSING_TABLE: Final = 1146
HUNG_UP: Final = (1153, 2006, 2013, 2020)  # too large a packet, the server has gone, also in the midst of it

TOO_MANY: Final = "too many SQL variables"  # SQLite's


def is_of_the_data(error: BaseException) -> bool:
    """Whether what was to be written is to blame, of an error that a usable connection met."""
    state, number = _codes(error)
    if isinstance(error, ProgrammingError):
        return not (state.startswith(MISSING) or number == MISSING_TABLE)
    if isinstance(error, InternalError):
        return not state.startswith(NO_TRANSACTION)
    is_limit = state.startswith(TOO_MUCH) or TOO_MANY in str(error)
    return is_limit or number in REFUSED or isinstance(error, DataError | IntegrityError)


def may_have_hung_up(error: BaseException | None) -> bool:
    """Whether the server may have hung up on what was to be written, and not answered that it cannot be now."""
    if not isinstance(error, DatabaseError | InterfaceError):
        return False
    state, number = _codes(error)
    return number in HUNG_UP or (number is None and not state)


def _codes(error: BaseException) -> tuple[str, int | None]:
    """The SQLSTATE of an error, "" where the driver tells none, and its number, None likewise."""
    cause = error.__cause__
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None) or ""
    number = error.args[0] if error.args else None
    return str(state), number if isinstance(number, int) else None
