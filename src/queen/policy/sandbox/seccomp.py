"""A seccomp filter for a process that computes and talks over the one socket it has; all else is refused with EPERM.

Classic BPF as seccomp(2) and Documentation/userspace-api/seccomp_filter.rst describe it; numbers from the kernel's
syscall tables.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass
from typing import Final

_LOAD, _JUMP_IF_EQUAL, _AND, _RETURN = 0x20, 0x15, 0x54, 0x06
_KILL_PROCESS, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_OFFSET_OF_NUMBER, _OFFSET_OF_ARCH, _OFFSET_OF_ARGUMENTS = 0, 4, 16
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_PROT_EXEC, _RLIMIT_CPU = 4, 0
_LOW = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class _Machine:
    """The audit number of an instruction set, and its system calls by name."""

    arch: int
    calls: dict[str, int]


_NAMES: Final = (
    *("read", "write", "close", "recvfrom", "sendto", "munmap", "mremap", "brk", "madvise", "futex"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall", "sched_yield"),
    *("clock_gettime", "gettimeofday", "times", "getrusage", "getrandom", "exit", "exit_group"),
    *("mmap", "mprotect", "prlimit64"),
)
_X86_64: Final = (
    *(0, 1, 3, 45, 44, 11, 25, 12, 28, 202),
    *(13, 14, 15, 131, 219, 24),
    *(228, 96, 100, 98, 318, 60, 231),
    *(9, 10, 302),
)
_AARCH64: Final = (
    *(63, 64, 57, 207, 206, 215, 216, 214, 233, 98),
    *(134, 135, 139, 132, 128, 124),
    *(113, 169, 153, 165, 278, 93, 94),
    *(222, 226, 261),
)
_MACHINES: Final = {
    "x86_64": _Machine(0xC000003E, dict(zip(_NAMES, _X86_64, strict=True))),
    "aarch64": _Machine(0xC00000B7, dict(zip(_NAMES, _AARCH64, strict=True))),
}

_CONDITIONS: Final = {
    # (argument, mask, what must be left): memory that can be run, and other limits than its own processor time, never.
    "mmap": ((2, _PROT_EXEC, 0),),
    "mprotect": ((2, _PROT_EXEC, 0),),
    "prlimit64": ((0, _LOW, 0), (1, _LOW, _RLIMIT_CPU)),
}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def install(libc: ctypes.CDLL) -> bool:
    """Applies the filter to this process for good; returns whether the kernel took it. Needs no_new_privs."""
    machine = _MACHINES.get(os.uname().machine)
    if machine is None:
        return False
    code = ctypes.create_string_buffer(filter_code(machine))
    program = _Program(len(code.raw) // 8, ctypes.addressof(code))
    taken: int = libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0)
    return taken == 0


def filter_code(machine: _Machine) -> bytes:
    """Returns the BPF program that lets the calls of `_NAMES` pass, some on conditions."""
    code = [
        _step(_LOAD, _OFFSET_OF_ARCH),
        _step(_JUMP_IF_EQUAL, machine.arch, 1, 0),
        _step(_RETURN, _KILL_PROCESS),
        _step(_LOAD, _OFFSET_OF_NUMBER),
    ]
    refuse = _step(_RETURN, _ERRNO | errno.EPERM)
    for name, number in machine.calls.items():
        block: list[bytes] = []
        conditions = _CONDITIONS.get(name, ())
        for place, (argument, mask, value) in enumerate(conditions, start=1):
            to_refusal = 3 * (len(conditions) - place) + 1
            block += [
                _step(_LOAD, _OFFSET_OF_ARGUMENTS + 8 * argument),  # the low half, on little-endian machines
                _step(_AND, mask),
                _step(_JUMP_IF_EQUAL, value, 0, to_refusal),
            ]
        block += [_step(_RETURN, _ALLOW), refuse] if conditions else [_step(_RETURN, _ALLOW)]
        code += [_step(_JUMP_IF_EQUAL, number, 0, len(block)), *block]
    return b"".join((*code, refuse))


def _step(operation: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", operation, if_true, if_false, value)
