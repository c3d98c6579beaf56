"""An answer from its first event to its last figures, for every command that shows one."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

from client.render.answer import AnswerView, JsonView, QuietView, TextView
from wire import errors
from wire.clock import SystemClock

if TYPE_CHECKING:
    from client.answer import Answer
    from client.client import Client


def view(*, as_json: bool, quiet: bool) -> AnswerView:
    """Returns the view that was asked for; JSON wins over quiet."""
    if as_json:
        return JsonView()
    return QuietView() if quiet else TextView(SystemClock())


async def show(queen: Client, answer: Answer, screen: AnswerView, *, cancel: bool) -> None:
    """Shows an answer; Ctrl+C ends it, and with `cancel` its job. Raises the error the job ended with."""
    try:
        async with aclosing(answer.events()) as events:
            async for event in events:
                screen.event(event, answer.job_id)
        await _summarise(queen, answer, screen)
    except asyncio.CancelledError:
        await _leave(queen, answer, screen, cancel=cancel)
        raise
    finally:
        screen.pause()


async def _summarise(queen: Client, answer: Answer, screen: AnswerView) -> None:
    if answer.done is None:
        return
    job: Any = None
    if isinstance(screen, TextView):
        with suppress(errors.RbeeError):
            job = await queen.get_job(answer.job_id)
    screen.summary(job, answer.done)


async def _leave(queen: Client, answer: Answer, screen: AnswerView, *, cancel: bool) -> None:
    if not answer.job_id or answer.done is not None:
        return
    if not cancel:
        screen.note(
            f"job {answer.job_id} goes on; see the rest: rbee jobs watch {answer.job_id} --after {answer.sequence}"
        )
        return
    with suppress(errors.RbeeError):
        await queen.cancel(answer.job_id)
        screen.note(f"cancelled job {answer.job_id}")
