"""The supervisor of background tasks: one task's defect is logged and told, and ends nothing else."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from wire import errors

log = logging.getLogger(__name__)


async def supervised(work: Awaitable[None], what: str, on_defect: Callable[[errors.RbeeError], None]) -> None:
    """Awaits some work; an exception nobody foresaw is logged and handed to `on_defect` as `Internal`.

    Cancellation passes through.
    """
    try:
        await work
    except Exception as defect:
        log.exception("%s failed", what)
        on_defect(errors.Internal(f"{what} failed inside rbee ({type(defect).__name__}); see the queen's log"))
