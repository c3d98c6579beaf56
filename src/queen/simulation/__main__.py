"""A simulation in a process of its own: `python -m queen.simulation`.

Standard input has the request, one line of JSON with the fields of `request.Asked`; the line after it never comes, and
when the pipe ends, because whoever asked is gone or has seen enough, this process does too. Standard output has lines
of JSON: `{"requests_done": 1, "requests_total": 2}` any number of times, then one of `{"result": {...}}` and
`{"error": {"kind", "reason", "message", "faults"}}`, with exit status 0 or 1. It runs with niceness 10.

Policies are strangers' programs, so the process takes the limits of the policy sandbox: no files, no network, no
processes, bounded memory. A decision that takes more than some seconds of processor time ends it.
"""

from __future__ import annotations

import gc
import json
import os
import stat
import sys
import threading
from random import Random
from typing import Any, Final

from queen.policy.sandbox import limits
from queen.simulation import request
from wire import errors

NICENESS: Final = 10
HEADROOM_BYTES: Final = 2 * 2**30
"""Memory for requests, jobs and records: about 4 KB a request, and the Lua heap."""


def main() -> int:
    """Reads the request, writes progress and the result; returns the exit status."""
    os.nice(NICENESS)
    gc.disable()  # nothing of a run is cyclic, and to look for cycles among all jobs takes a tenth of the time
    line = sys.stdin.buffer.readline()
    threading.Thread(target=_end_with_parent, name="parent watch", daemon=True).start()
    request.rehearse()
    limits.apply(HEADROOM_BYTES)
    try:
        asked = request.asked(_parsed(line))
        result = request.run(asked, Random(asked.seed), _tell_progress, limits.allow_request)  # noqa: S311 - repeatable, not secret
    except errors.RbeeError as error:
        faults = [{"field": fault.field, "expected": fault.expected} for fault in error.faults]
        kind = next(one.__name__ for one in type(error).__mro__ if one.__module__ == errors.__name__)
        _write({"error": {"kind": kind, "reason": error.reason, "message": error.message, "faults": faults}})
        return 1
    _write({"result": result})
    return 0


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise errors.Invalid(f"the request is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise errors.Invalid("the request is not a JSON object")
    return value


def _end_with_parent() -> None:
    """Ends this process when its standard input does, where that is a pipe."""
    mode = os.fstat(0).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        while os.read(0, 65536):
            pass
        os._exit(1)


def _tell_progress(done: int, total: int) -> None:
    _write({"requests_done": done, "requests_total": total})


def _write(value: dict[str, Any]) -> None:
    print(json.dumps(value, separators=(",", ":")), flush=True)


if __name__ == "__main__":
    sys.exit(main())
