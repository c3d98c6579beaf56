"""Decisions as they are listed: PolicyService answers its ListDecisions with this."""

from __future__ import annotations

from queen.core.ports import Store
from queen.services import convert, paging
from rbee.v1 import policy_service_pb2 as pb
from wire import errors


async def list_decisions(
    store: Store, request: pb.PolicyServiceListDecisionsRequest
) -> pb.PolicyServiceListDecisionsResponse:
    """Returns a page of decisions, newest first; raises `Invalid` for a page token that is not one of this list's."""
    size = paging.page_size(request.page_size)
    await store.flush()  # what was decided a moment ago is there too
    before = _place(paging.key_of(request.page_token))
    found = await store.find_decisions(job_id=request.job_id, policy=request.policy, before=before, limit=size + 1)
    answer = pb.PolicyServiceListDecisionsResponse(decisions=[convert.decision(one) for one in found[:size]])
    if len(found) > size:
        last = found[size - 1]
        answer.next_page_token = paging.token(f"{last.decide_time!r} {last.id}")
    return answer


def _place(key: str) -> tuple[float, str] | None:
    if not key:
        return None
    time, _, decision_id = key.partition(" ")
    try:
        return float(time), decision_id
    except ValueError as error:
        fault = errors.FieldFault("page_token", "the next_page_token of this list's page before, or empty")
        raise errors.invalid([fault]) from error
