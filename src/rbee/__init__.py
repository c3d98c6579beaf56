"""rbee: one place to ask for tokens from the machines you own.

    async with rbee.connect("localhost:7833") as queen:
        async for piece in queen.infer(model="rbee-tiny", prompt="What is a hive?"):
            print(piece, end="")

`rbee.connect_sync` is the same without `async`. Everything is imported when first used, so `import rbee` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from client.answer import Answer, Piece
    from client.blocking import SyncAnswer, SyncClient, connect_sync
    from client.client import Client, connect
    from client.job import ChatMessage, JobOptions
    from wire.errors import (
        AlreadyExists,
        Cancelled,
        Conflict,
        Denied,
        FieldFault,
        Internal,
        Invalid,
        NoCapacity,
        NotFound,
        RbeeError,
        TimedOut,
        Unauthenticated,
        Unreachable,
        Unserved,
        WrongState,
    )

__all__ = [
    "AlreadyExists",
    "Answer",
    "Cancelled",
    "ChatMessage",
    "Client",
    "Conflict",
    "Denied",
    "FieldFault",
    "Internal",
    "Invalid",
    "JobOptions",
    "NoCapacity",
    "NotFound",
    "Piece",
    "RbeeError",
    "SyncAnswer",
    "SyncClient",
    "TimedOut",
    "Unauthenticated",
    "Unreachable",
    "Unserved",
    "WrongState",
    "connect",
    "connect_sync",
]

_HOMES: Final = {
    "Answer": "client.answer",
    "ChatMessage": "client.job",
    "Client": "client.client",
    "JobOptions": "client.job",
    "Piece": "client.answer",
    "SyncAnswer": "client.blocking",
    "SyncClient": "client.blocking",
    "connect": "client.client",
    "connect_sync": "client.blocking",
}
"""Where a public name lives; those that are not here are errors."""


def __getattr__(name: str) -> Any:
    """Returns a public name, importing what it needs when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'rbee' has no attribute '{name}'")
    value = getattr(import_module(_HOMES.get(name, "wire.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns the public names, whether they have been used or not."""
    return sorted({*globals(), *__all__})
