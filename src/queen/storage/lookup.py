"""Jobs found by their request ids: what is asked for while a query runs shares the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field

from queen.core.model import Job
from wire import errors


@dataclass(slots=True)
class _Question:
    ids: set[str] = field(default_factory=set)
    found: dict[str, Job] | None = None
    error: errors.Unreachable | None = None


class Lookup:
    """Gathers questions, because a query costs much more than one more id in it. `query` answers many at once."""

    def __init__(self, query: Callable[[Collection[str]], Awaitable[dict[str, Job]]]) -> None:
        self._query = query
        self._one_at_a_time = asyncio.Lock()
        self._gathers = _Question()

    async def find(self, request_ids: Collection[str]) -> dict[str, Job]:
        """Returns the jobs of these request ids, and maybe others, by request id. Raises what the query raises."""
        if not request_ids:
            return {}
        question = self._gathers
        question.ids.update(request_ids)
        # Whoever comes first asks for all; if that caller goes away meanwhile, the next one asks again.
        async with self._one_at_a_time:
            if question.found is None and question.error is None:
                await self._ask(question)
        if question.error is not None:
            raise errors.Unreachable(
                question.error.message, question.error.reason, retry_after_s=question.error.retry_after_s
            )
        return question.found or {}

    async def _ask(self, question: _Question) -> None:
        if self._gathers is question:
            self._gathers = _Question()
        try:
            question.found = await self._query(question.ids)
        except errors.Unreachable as error:
            question.error = error
