"""An error as a person sees it: what happened, to what, and the remedy; and as a script sees it: a number."""

from __future__ import annotations

from typing import Final

from wire import errors

FAILED: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
NO_QUEEN: Final = 4
TRY_LATER: Final = 5
INTERRUPTED: Final = 130

EXIT_CODES: Final[dict[int, str]] = {
    0: "all went well",
    FAILED: "it failed, see the error",
    USAGE: "an option or a value is wrong",
    NOT_FOUND: "what was named does not exist",
    NO_QUEEN: "no queen answers",
    TRY_LATER: "no capacity now, try later",
    INTERRUPTED: "interrupted by Ctrl+C",
}
"""Every exit code of `rbee` and what it means."""

_NO_QUEEN_REASONS: Final = {"QUEEN_UNREACHABLE", "QUEEN_LOST", "NOT_A_QUEEN"}

_REMEDIES: Final[dict[str, str]] = {
    "MODEL_NOT_FOUND": "rbee model list",
    "JOB_NOT_FOUND": "rbee jobs list",
    "HIVE_NOT_FOUND": "rbee hive list",
    "WORKER_NOT_FOUND": "rbee worker list",
    "NO_HIVES": "rbee up",
    "POLICY_NOT_FOUND": "rbee policy list",
    "INSUFFICIENT_VRAM": "rbee worker list",
    "QUEUE_FULL": "rbee jobs list --queue",
    "OUTPUT_DROPPED": "rbee jobs show JOB",
    "BAD_BATCH": "rbee jobs submit --help",
}
"""The command that helps, by the error's reason; messages of the queen mostly name one themselves."""

_HELP_BY_FIELD: Final = {"job": "rbee infer --help", "spec": "rbee worker spawn --help"}
"""The help that lists the ranges of bad fields, by the first part of their path."""


def exit_code(error: errors.RbeeError) -> int:
    """Returns the exit code of a command that ended with this error."""
    if error.reason in _NO_QUEEN_REASONS:
        return NO_QUEEN
    if isinstance(error, errors.NotFound):
        return NOT_FOUND
    if isinstance(error, errors.Invalid):
        return USAGE
    if isinstance(error, errors.NoCapacity) or error.retry_after_s is not None:
        return TRY_LATER
    return FAILED


def lines(error: errors.RbeeError) -> list[str]:
    """Returns the lines that tell of an error, each bad field on its own, the remedy last."""
    # The message of an invalid request repeats its bad fields after a colon.
    told = error.message.partition(": ")[0] if error.faults else error.message
    found = [told, *(f"  {fault.field}: {fault.expected}" for fault in error.faults)]
    if error.retry_after_s is not None:
        found.append(f"try again in {error.retry_after_s:.0f} s" if error.retry_after_s >= 1 else "try again now")
    if remedy := _remedy(error):
        found.append(f"see: {remedy}")
    return found


def _remedy(error: errors.RbeeError) -> str:
    job_id = error.metadata.get("job_id", "")
    if error.faults:
        field = error.faults[0].field.partition(".")[0]
        command = _HELP_BY_FIELD.get(field, "") or _REMEDIES.get(error.reason, "")
    elif error.reason in _REMEDIES:
        command = _REMEDIES[error.reason].replace("JOB", job_id or "JOB")
    elif job_id:
        command = f"rbee jobs show {job_id}"
    else:
        command = ""
    return "" if "rbee " in error.message and not error.faults else command
