"""TraceService: what was done for jobs, as long as it is kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from itertools import islice
from typing import Any, Final

import grpc

from queen.core.model import Job
from queen.core.ports import Store
from queen.registry.jobs import JobTable
from queen.services import paging
from queen.traces.job_spans import JobSpans
from queen.traces.kept import Traces
from rbee.v1 import trace_pb2, trace_service_pb2, trace_service_pb2_grpc
from wire import errors, span_messages, telemetry
from wire.spans import Span

pb = trace_service_pb2
Context = grpc.aio.ServicerContext[Any, Any]

_STEPS: Final = (
    telemetry.SPAN_ADMISSION,
    telemetry.SPAN_QUEUE,
    telemetry.SPAN_DECIDE,
    telemetry.SPAN_PROVISION,
    telemetry.SPAN_ATTEMPT,
)


class TraceService(trace_service_pb2_grpc.TraceServiceServicer):
    """Shows recent traces, and takes in what callers record."""

    def __init__(self, traces: Traces, spans: JobSpans, jobs: JobTable, store: Store) -> None:
        self._traces = traces
        self._spans = spans
        self._jobs = jobs
        self._store = store

    async def Get(self, request: pb.TraceServiceGetRequest, context: Context) -> pb.TraceServiceGetResponse:
        """Tells what was done for a job, and what is being done."""
        live = self._jobs.get(request.job_id)
        job = live.job if live is not None else await self._store.get_job(request.job_id)
        if job is None:
            raise errors.NotFound(f"there is no job {request.job_id}; see: rbee jobs list", "JOB_NOT_FOUND")
        found = [one for one in self._traces.of(job.trace_id) if _is_about(one, job)]
        if live is not None:
            found += self._spans.open(live)
        if not found:
            raise errors.NotFound(
                f"the trace of job {job.id} is not kept any more: the queen keeps the newest ones (--traces), and none "
                f"from before her start. Why it ran as it did is on disk: rbee why {job.id}",
                "TRACE_NOT_KEPT",
            )
        found.sort(key=lambda span: span.start_ns)
        return pb.TraceServiceGetResponse(spans=map(span_messages.message, found))

    async def List(self, request: pb.TraceServiceListRequest, context: Context) -> pb.TraceServiceListResponse:
        """Lists jobs at rest, those first that waited longest for their first token."""
        size = paging.page_size(request.page_size)
        after = _number(paging.key_of(request.page_token))
        told = [_summary(whole, steps) for whole, steps in self._traces.ended()]
        told.sort(key=lambda one: one.wait.ToNanoseconds(), reverse=True)
        answer = pb.TraceServiceListResponse(traces=islice(told, after, after + size))
        if after + size < len(told):
            answer.next_page_token = paging.token(str(after + size))
        return answer

    async def Add(self, request: pb.TraceServiceAddRequest, context: Context) -> pb.TraceServiceAddResponse:
        """Adds a caller's spans to the traces that are kept."""
        _check(request.spans, request.ByteSize())
        by_trace: defaultdict[str, list[trace_pb2.Span]] = defaultdict(list)
        for span in request.spans:
            by_trace[span.trace_id].append(span)
        for trace_id, spans in by_trace.items():
            if self._traces.knows(int(trace_id, 16)):
                self._traces.add_sent(trace_pb2.Spans(spans=spans).SerializeToString(), int(trace_id, 16))
        return pb.TraceServiceAddResponse()


def _check(spans: Collection[trace_pb2.Span], size: int) -> None:
    faults = []
    if not 1 <= len(spans) <= span_messages.MOST_SPANS:
        faults.append(errors.FieldFault("spans", f"1 to {span_messages.MOST_SPANS}, not {len(spans)}"))
    if size > span_messages.MOST_BYTES:
        faults.append(errors.FieldFault("spans", f"at most {span_messages.MOST_BYTES:,} bytes together, not {size:,}"))
    for place, span in enumerate(spans):
        try:
            read = span_messages.span(span)
        except ValueError:
            faults.append(errors.FieldFault(f"spans[{place}]", "ids of 32 and 16 hex digits"))
            continue
        if not (0 < read.trace_id < 2**128 and 0 < read.span_id < 2**64 and 0 <= read.parent_id < 2**64):
            faults.append(errors.FieldFault(f"spans[{place}]", "ids of 32 and 16 hex digits"))
        if not read.end_ns:
            faults.append(errors.FieldFault(f"spans[{place}].end_time", "required: it has ended"))
    if faults:
        raise errors.invalid(faults, "spans")


def _is_about(span: Span, job: Job) -> bool:
    """Tells whether a span of a job's trace is not about another job of that trace alone."""
    return span.attributes.get(telemetry.JOB_ID, job.id) == job.id


def _summary(whole: Span, spans: Collection[Span]) -> pb.TraceSummary:
    facts = whole.attributes
    steps = [one for one in spans if one.name in _STEPS and one.parent_id == whole.span_id]
    longest = max(steps, key=_length_ns, default=None)
    told = pb.TraceSummary(
        job_id=str(facts[telemetry.JOB_ID]),
        trace_id=telemetry.trace_hex(whole.trace_id),
        model=str(facts["rbee.model"]),
        error=whole.error,
        longest_step=longest.name if longest else "",
    )
    wait = facts.get("rbee.time_to_first_token")
    told.start_time.FromNanoseconds(whole.start_ns)
    told.wait.FromNanoseconds(int(wait * 1e9) if isinstance(wait, float) else _length_ns(whole))
    told.duration.FromNanoseconds(_length_ns(whole))
    told.longest_step_duration.FromNanoseconds(_length_ns(longest) if longest else 0)
    return told


def _length_ns(span: Span) -> int:
    return span.end_ns - span.start_ns


def _number(key: str) -> int:
    if key and not key.isdigit():
        raise errors.invalid(
            [errors.FieldFault("page_token", "the next_page_token of this list's page before, or empty")]
        )
    return int(key or 0)
