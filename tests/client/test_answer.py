"""An answer over a real server that breaks the connection: nothing lost, nothing twice, nothing left running."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

import rbee
from client.client import Client
from rbee.v1 import (
    event_pb2,
    inference_service_pb2,
    inference_service_pb2_grpc,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
)
from wire.server import Server

WORDS = ["A ", "hive ", "is ", "a ", "home", "."]
JOB_ID = "job-1"


def events() -> list[event_pb2.JobEvent]:
    found = [
        event_pb2.JobEvent(queued=event_pb2.Queued(position=1)),
        event_pb2.JobEvent(started=event_pb2.Started(worker_id="w", hive_id="h", attempt=1)),
    ]
    found += [
        event_pb2.JobEvent(tokens=event_pb2.Tokens(text=word, count=1, first_index=index))
        for index, word in enumerate(WORDS)
    ]
    found.append(event_pb2.JobEvent(done=event_pb2.Done(seed=7)))
    for sequence, event in enumerate(found, 1):
        event.sequence = sequence
    return found


class BreakingQueen(inference_service_pb2_grpc.InferenceServiceServicer, job_service_pb2_grpc.JobServiceServicer):
    """Speaks the contract; sends `breaks[i]` events in its i-th stream and then fails as a network does."""

    def __init__(self, breaks: list[int], *, overlap: int = 0) -> None:
        self.breaks = breaks
        self.overlap = overlap
        self.watched_after: list[int] = []
        self.cancelled: list[str] = []
        self.left = asyncio.Event()
        self.request_ids: list[str] = []
        self.hold = asyncio.Event()
        self.hold.set()

    async def Infer(self, request: Any, context: Any) -> None:  # type: ignore[override]
        self.request_ids.append(request.request_id)
        await context.write(inference_service_pb2.InferResponse(job_id=JOB_ID))
        await self._send(inference_service_pb2.InferResponse, 0, context)

    async def Watch(self, request: Any, context: Any) -> None:  # type: ignore[override]
        self.watched_after.append(request.after_sequence)
        await self._send(
            job_service_pb2.JobServiceWatchResponse, max(0, request.after_sequence - self.overlap), context
        )

    async def Cancel(self, request: Any, context: Any) -> job_service_pb2.JobServiceCancelResponse:
        self.cancelled.append(request.job_id)
        return job_service_pb2.JobServiceCancelResponse(job=job_pb2.Job(id=request.job_id))

    async def _send(self, kind: Any, after: int, context: Any) -> None:
        count = self.breaks.pop(0) if self.breaks else len(events())
        try:
            for event in events()[after : after + count]:
                await context.write(kind(events=[event]))
            await self.hold.wait()
        except asyncio.CancelledError:
            self.left.set()
            raise
        if after + count < len(events()):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")


async def started(queen: BreakingQueen, port: int = 0) -> Server:
    server = Server("queen")
    server.add(inference_service_pb2.DESCRIPTOR.services_by_name["InferenceService"], queen)
    server.add(job_service_pb2.DESCRIPTOR.services_by_name["JobService"], queen)
    await server.start(f"127.0.0.1:{port}")
    return server


@asynccontextmanager
async def serving(queen: BreakingQueen) -> AsyncIterator[int]:
    server = await started(queen)
    try:
        yield server.port
    finally:
        await server.stop(0)


def client(port: int, reattach_s: float = 10) -> Client:
    return rbee.connect(f"127.0.0.1:{port}", reattach_s=reattach_s)


@pytest.mark.parametrize("breaks", [[], [0], [3], [4, 2, 0, 1], [8]])
@pytest.mark.parametrize("overlap", [0, 2])
async def test_broken_streams_lose_and_repeat_nothing(breaks: list[int], overlap: int) -> None:
    breaking = BreakingQueen(list(breaks), overlap=overlap)
    lost: list[str] = []
    async with serving(breaking) as port, client(port) as queen:
        answer = queen.infer(model="m", prompt="hi", on_lost=lost.append)
        seen = [event.sequence async for event in answer.events()]
    assert seen == [event.sequence for event in events()]
    assert answer.job_id == JOB_ID
    assert answer.done is not None
    assert answer.done.seed == 7
    assert len(breaking.watched_after) == len(lost) == len(breaks)
    assert breaking.cancelled == []


async def test_each_break_has_the_whole_time_to_be_mended() -> None:
    breaking = BreakingQueen([1] * 6)
    async with serving(breaking) as port, client(port, reattach_s=0.15) as queen:
        assert await queen.infer(model="m", prompt="hi").text() == "".join(WORDS)
    assert len(breaking.watched_after) == 6


async def test_pieces_are_the_tokens_in_order() -> None:
    async with serving(BreakingQueen([4])) as port, client(port) as queen:
        pieces = [piece async for piece in queen.infer(model="m", prompt="hi")]
    assert [str(piece) for piece in pieces] == WORDS
    assert [piece.first_index for piece in pieces] == list(range(len(WORDS)))


async def test_queen_that_restarts_is_found_again() -> None:
    first, second = BreakingQueen([4]), BreakingQueen([])
    first.hold.clear()
    server, texts = await started(first), []
    async with client(server.port) as queen:
        async for piece in queen.infer(model="m", prompt="hi"):
            texts.append(piece.text)
            if len(texts) == 2:
                await server.stop(0)
                server = await started(second, server.port)
    await server.stop(0)
    assert texts == WORDS
    assert second.watched_after == [4]


async def test_queen_that_stays_away_is_named_with_the_way_on() -> None:
    server, seen = await started(BreakingQueen([4])), []

    async def stop_after_four() -> None:
        async with client(server.port, reattach_s=0.5) as queen:
            async for event in queen.infer(model="m", prompt="hi").events():
                seen.append(event.sequence)
                if len(seen) == 4:
                    await server.stop(0)

    with pytest.raises(rbee.Unreachable, match=rf"rbee jobs watch {JOB_ID} --after 4") as caught:
        await stop_after_four()
    assert seen == [1, 2, 3, 4]
    assert caught.value.reason == "QUEEN_LOST"


async def test_leaving_early_cancels_the_call() -> None:
    breaking = BreakingQueen([])
    breaking.hold.clear()
    async with serving(breaking) as port, client(port) as queen:
        async for piece in queen.infer(model="m", prompt="hi"):
            assert piece.text == WORDS[0]
            break
        await asyncio.wait_for(breaking.left.wait(), 5)


async def test_leaving_early_after_a_break_cancels_the_job() -> None:
    breaking = BreakingQueen([3])
    async with serving(breaking) as port, client(port) as queen:
        answer = queen.infer(model="m", prompt="hi")
        pieces = answer.pieces()
        assert [(await anext(pieces)).text, (await anext(pieces)).text] == WORDS[:2]
        await pieces.aclose()
        watching = queen.watch(JOB_ID).pieces()
        assert (await anext(watching)).text == WORDS[0]
        await watching.aclose()
    assert breaking.cancelled == [JOB_ID]


async def test_each_job_has_a_request_id_of_its_own() -> None:
    breaking = BreakingQueen([])
    async with serving(breaking) as port, client(port) as queen:
        for _ in range(2):
            assert await queen.infer(model="m", prompt="hi").text() == "".join(WORDS)
        await queen.infer(model="m", prompt="hi", request_id="mine").text()
    first, second, third = breaking.request_ids
    assert first
    assert first != second
    assert third == "mine"


async def test_nobody_there_is_said_at_once(unused_tcp_port: int) -> None:
    async with rbee.connect(f"127.0.0.1:{unused_tcp_port}") as queen:
        with pytest.raises(rbee.Unreachable, match=f"no queen answers at 127.0.0.1:{unused_tcp_port}.*rbee up"):
            await queen.infer(model="m", prompt="hi").text()


async def test_the_queens_own_unavailable_is_no_broken_connection() -> None:
    class Refusing(BreakingQueen):
        async def Infer(self, request: Any, context: Any) -> None:  # type: ignore[override]
            await context.write(inference_service_pb2.InferResponse(job_id=JOB_ID))
            raise rbee.Unreachable("worker w died", "WORKER_LOST", metadata={"job_id": JOB_ID})

    breaking = Refusing([])
    async with serving(breaking) as port, client(port) as queen:
        with pytest.raises(rbee.Unreachable, match="worker w died") as caught:
            await queen.infer(model="m", prompt="hi").text()
    assert caught.value.reason == "WORKER_LOST"
    assert breaking.watched_after == []


async def test_the_synchronous_twin_streams_and_leaves_early() -> None:
    breaking = BreakingQueen([5])

    def use(port: int) -> tuple[list[str], str, int]:
        with rbee.connect_sync(f"127.0.0.1:{port}") as queen:
            answer = queen.infer(model="m", prompt="hi")
            texts = [piece.text for piece in answer]
            for _ in queen.infer(model="m", prompt="hi"):
                break
            assert answer.done is not None
            return texts, answer.job_id, answer.done.seed

    async with serving(breaking) as port:
        assert await asyncio.to_thread(use, port) == (WORDS, JOB_ID, 7)
