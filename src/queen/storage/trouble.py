"""What the database's errors mean to a person, and which of them pass by themselves."""

from __future__ import annotations

from typing import Final

from sqlalchemy import URL
from sqlalchemy.exc import OperationalError

from wire import errors

RETRY_AFTER_S: Final = 1.0

_DAMAGED: Final = {"SQLITE_CORRUPT", "SQLITE_NOTADB"}
_FULL: Final = {"SQLITE_FULL", "SQLITE_IOERR_WRITE"}
_STARTING_UP: Final = "57P03"
"""PostgreSQL's cannot_connect_now: it starts up or shuts down."""


def unavailable(error: Exception, url: URL, verb: str = "used") -> errors.Unreachable:
    """Returns `Unreachable` STORAGE_UNAVAILABLE that names the database, what is wrong with it and what helps."""
    original = getattr(error, "orig", None) or error
    code = getattr(original, "sqlite_errorname", "")
    path = url.database if url.get_backend_name() == "sqlite" else None
    name = path or url.render_as_string(hide_password=True)
    if code in _DAMAGED:
        advice = f"It is damaged: restore it from a backup, or begin with an empty one by: mv {name} {name}.damaged"
    elif code in _FULL:
        advice = "Free disk space; what was acknowledged is safe, and she goes on by herself"
    elif path is not None:
        advice = "Check its permissions and free disk space, or choose another with --database or --data-dir"
    else:
        advice = "Check that the server runs and that address and password are right"
    reason = " ".join(str(original).split())
    return errors.Unreachable(
        f"the queen's database {name} cannot be {verb}: {reason}. {advice}",
        "STORAGE_UNAVAILABLE",
        retry_after_s=RETRY_AFTER_S,
    )


def may_pass(error: BaseException | None) -> bool:
    """Returns whether a failed start is worth another try: the database's server cannot be reached, or not yet."""
    if not isinstance(error, OperationalError) or type(error.orig).__module__.startswith("sqlite3"):
        return False
    return getattr(error.orig, "sqlstate", None) in (None, _STARTING_UP)
