"""The loop inside the sandbox process: read a request, patch the state, ask the policy, answer."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Final, assert_never

from queen.policy.language import Outcome, PolicyError, Program
from queen.policy.rows import patch
from queen.policy.sandbox import frames, limits
from rbee.v1 import decision_pb2
from rbee.v1 import sandbox_pb2 as pb

_ACTIONS: Final = {
    "dispatch": decision_pb2.DECISION_ACTION_DISPATCH,
    "wait": decision_pb2.DECISION_ACTION_WAIT,
    "start_worker": decision_pb2.DECISION_ACTION_START_WORKER,
    "evict": decision_pb2.DECISION_ACTION_EVICT,
    "reject": decision_pb2.DECISION_ACTION_REJECT,
}
_REHEARSAL: Final = "function schedule(context) log_info('x') return wait('rehearsal', 1) end"
_NO_CHANGE: Final = b'[["put", "config", "", {}, ["none"]]]'


def serve(end: socket.socket, program: Program, now_ns: Callable[[], int]) -> None:
    """Answers requests until the other end closes; no policy is read before the limits hold. `now_ns`: any clock."""
    # Run once while files can still be opened: Python imports some things only when they are first used.
    for request in (
        pb.SandboxRequest(changes=_NO_CHANGE, load=pb.SandboxLoad(source=_REHEARSAL, name="rehearsal")),
        pb.SandboxRequest(decide=pb.SandboxDecide(deadline_ms=1000)),
        pb.SandboxRequest(load=pb.SandboxLoad()),
    ):
        answer(program, request, now_ns)
    hello = pb.SandboxReply(hello=pb.SandboxHello(protections=limits.apply()))
    end.sendall(frames.framed(hello.SerializeToString()))
    while (message := frames.receive(end)) is not None:
        limits.allow_request()
        end.sendall(frames.framed(answer(program, pb.SandboxRequest.FromString(message), now_ns)))


def answer(program: Program, request: pb.SandboxRequest, now_ns: Callable[[], int]) -> bytes:
    """Returns the serialised reply to a request. One that would be too long says so instead."""
    if request.changes:
        patch(program, json.loads(request.changes))
    begun = now_ns()
    outcome, entry_points = _work(program, request)
    reply = _reply(outcome)
    reply.entry_points.extend(entry_points)
    reply.duration_us = (now_ns() - begun) // 1000
    written = pb.SandboxReply(number=request.number, outcome=reply).SerializeToString()
    if len(written) <= frames.MAX_REPLY_BYTES:
        return written
    flood = f"policy answered with {len(written):,} bytes, more than {frames.MAX_REPLY_BYTES:,}"
    return pb.SandboxReply(number=request.number, outcome=pb.SandboxOutcome(error=flood)).SerializeToString()


def _work(program: Program, request: pb.SandboxRequest) -> tuple[Outcome, list[str]]:
    match request.WhichOneof("work"):
        case None:
            return Outcome(), []
        case "load":
            error = _load(program, request.load)
            return Outcome(error=error), sorted(program.entry_points())
        case "decide":
            asked = request.decide
            decide = program.decide_platform if asked.platform else program.decide
            return decide(asked.now_ms, asked.seed, asked.deadline_ms), []
        case "call":
            call = request.call
            given: dict[str, str | int] = {}
            if call.job_id:
                given["job_id"] = call.job_id
            if call.error:
                given |= {"error": call.error, "attempt": call.attempt}
            return program.call(call.name, given, call.now_ms, call.seed, call.deadline_ms), []
        case never:
            assert_never(never)


def _load(program: Program, load: pb.SandboxLoad) -> PolicyError | None:
    if load.platform_source and (error := program.load_platform(load.platform_source)):
        return error
    if load.source:
        return program.load(load.source, load.name)
    program.unload()
    return None


def _reply(outcome: Outcome) -> pb.SandboxOutcome:
    return pb.SandboxOutcome(
        decisions=[
            pb.SandboxDecision(
                action=_ACTIONS[one.action],
                job_id=one.job_id or "",
                worker_id=one.worker_id or "",
                model_ref=one.model_ref or "",
                pool_id=one.pool_id or "",
                gpu_id=one.gpu_id or "",
                reason=one.reason or "",
                retry_after_ms=one.retry_after_ms,
            )
            for one in outcome.decisions
        ],
        error=outcome.error.message if outcome.error else "",
        traceback=outcome.error.traceback if outcome.error else "",
        logs=[pb.SandboxLog(level=line.level, message=line.message) for line in outcome.logs],
        logs_dropped=outcome.dropped_logs,
        metrics=[pb.SandboxMetric(name=one.name, value=one.value) for one in outcome.metrics],
        explained=[
            pb.SandboxExplained(
                job_id=one.job_id,
                worker_id=one.worker_id or "",
                pool_id=one.pool_id or "",
                reason=one.reason or "",
                score=one.score,
            )
            for one in outcome.explained
        ],
        undecided=outcome.undecided,
        answer=outcome.answer,
        answer_reason=outcome.answer_reason or "",
    )
