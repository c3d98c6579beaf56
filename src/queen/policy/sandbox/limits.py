"""What the sandbox process may never do, set by itself before it reads any policy, and checked instead of believed."""

from __future__ import annotations

import ctypes
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Final

from queen.policy.sandbox import seccomp

HEADROOM_BYTES: Final = 384 * 2**20
"""Memory the process may take on top of what it has when it is ready: the Lua heap (64 MB), the rows of 10,000 workers
as they arrive, and one reply."""

CPU_PER_REQUEST_S: Final = 5
"""Processor time of one request, after which the kernel ends the process, even when no queen is there to do it."""

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_GET_NO_NEW_PRIVS, _PR_SET_DUMPABLE = 1, 38, 39, 4
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


def apply(headroom_bytes: int = HEADROOM_BYTES) -> list[str]:
    """Applies every limit this machine has and returns those that hold, as `rbee status` shows them."""
    held = []
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if libc.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1:
            held.append("no_new_privs")
        held += _rlimits(_address_space_bytes() + headroom_bytes)
        if seccomp.install(libc) and _refuses_sockets():
            held.append("seccomp")
        elif libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0:
            held.append("network namespace")
    else:
        held += _rlimits(None)
    return held


def allow_request() -> None:
    """Lets the process use the processor time of one request beyond what it has used so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    whole_s = int(used.ru_utime + used.ru_stime) + 1 + CPU_PER_REQUEST_S
    resource.setrlimit(resource.RLIMIT_CPU, (whole_s, resource.RLIM_INFINITY))


def _rlimits(memory_bytes: int | None) -> list[str]:
    limits = {
        "memory": (resource.RLIMIT_AS, memory_bytes),
        "files": (resource.RLIMIT_NOFILE, 0),  # the socket it has stays; no other can be opened
        "processes": (resource.RLIMIT_NPROC, 0),
        "file size": (resource.RLIMIT_FSIZE, 0),
        "core": (resource.RLIMIT_CORE, 0),
    }
    for which, value in limits.values():
        if value is not None:
            resource.setrlimit(which, (value, value))
    allow_request()
    held = [name for name, (which, value) in limits.items() if resource.getrlimit(which) == (value, value)]
    return [f"limit of {name}" for name in ("cpu", *held)]


def _address_space_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _refuses_sockets() -> bool:
    try:
        socket.socket().close()
    except PermissionError:
        return True
    except OSError:  # refused by the limit of files: says nothing about the filter
        return False
    return False
