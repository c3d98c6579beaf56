"""The calls of a client about policies."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final

import grpc

from rbee.v1 import policy_pb2, policy_service_pb2, policy_service_pb2_grpc
from wire import errors, telemetry

pb = policy_service_pb2

TRIAL_TIMEOUT_S: Final = 90.0
"""Longest wait for what runs a policy for a while: to compile and to try it take the queen at most 30 s each."""


class PolicyCalls:
    """What a queen can be asked about policies. Every method raises errors of `wire.errors`, the contract lists which.

    `ask`, `pages` and `explain` are the client's.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        ask: Callable[..., Awaitable[Any]],
        pages: Callable[..., AsyncGenerator[Any, None]],
        explain: Callable[[grpc.aio.AioRpcError], errors.RbeeError],
    ) -> None:
        self._stub: policy_service_pb2_grpc.PolicyServiceAsyncStub = policy_service_pb2_grpc.PolicyServiceStub(channel)
        self._ask = ask
        self._pages = pages
        self._explain = explain

    async def validate(self, source: str, file_name: str) -> pb.PolicyServiceValidateResponse:
        """Returns what is wrong with a policy's text."""
        request = pb.PolicyServiceValidateRequest(source=source, file_name=file_name)
        reply: pb.PolicyServiceValidateResponse = await self._ask(self._stub.Validate, request, TRIAL_TIMEOUT_S)
        return reply

    async def test(
        self, source: str, file_name: str, cases_yaml: str, cases_file_name: str
    ) -> list[policy_pb2.PolicyCaseResult]:
        """Returns how each case of a file went."""
        request = pb.PolicyServiceTestRequest(
            source=source, file_name=file_name, cases_yaml=cases_yaml, cases_file_name=cases_file_name
        )
        return list((await self._ask(self._stub.Test, request, TRIAL_TIMEOUT_S)).results)

    async def save(
        self,
        name: str,
        source: str,
        *,
        version: str = "",
        file_name: str = "",
    ) -> policy_pb2.Policy:
        """Returns the version a text was saved as, or is already; `file_name` tells Lua from YAML."""
        request = pb.PolicyServiceSaveRequest(
            request_id=_request_id(), name=name, source=source, version=version, file_name=file_name
        )
        return _policy(await self._ask(self._stub.Save, request, TRIAL_TIMEOUT_S))

    async def activate(self, name: str, version: str = "") -> policy_pb2.Policy:
        """Lets a version decide, the newest unless told; returns it."""
        request = pb.PolicyServiceActivateRequest(request_id=_request_id(), name=name, version=version)
        return _policy(await self._ask(self._stub.Activate, request))

    async def rollback(self) -> policy_pb2.Policy:
        """Lets the version decide that was active before; returns it."""
        return _policy(await self._ask(self._stub.Rollback, pb.PolicyServiceRollbackRequest(request_id=_request_id())))

    async def list(self, name: str = "") -> AsyncGenerator[policy_pb2.Policy, None]:
        """Yields the newest version of each policy, or all versions of one; without their texts."""
        async for page in self._pages(self._stub.List, pb.PolicyServiceListRequest(name=name)):
            for policy in page.policies:
                yield policy

    async def get(self, name: str, version: str = "") -> policy_pb2.Policy:
        """Returns a version with its text, the newest unless told."""
        return _policy(await self._ask(self._stub.Get, pb.PolicyServiceGetRequest(name=name, version=version)))

    async def standing(self) -> pb.PolicyServiceGetStandingResponse:
        """Returns which policy decides and how it fares."""
        reply: pb.PolicyServiceGetStandingResponse = await self._ask(
            self._stub.GetStanding, pb.PolicyServiceGetStandingRequest()
        )
        return reply

    async def platform_source(self) -> str:
        """Returns the source of the built-in policy."""
        return str((await self._ask(self._stub.GetPlatformSource, pb.PolicyServiceGetPlatformSourceRequest())).source)

    async def templates(self) -> AsyncGenerator[policy_pb2.PolicyTemplate, None]:
        """Yields the commented starts by name."""
        async for page in self._pages(self._stub.ListTemplates, pb.PolicyServiceListTemplatesRequest()):
            for template in page.templates:
                yield template

    async def simulate(
        self, request: pb.PolicyServiceSimulateRequest
    ) -> AsyncGenerator[pb.PolicyServiceSimulateResponse, None]:
        """Yields the progress of a simulation, then its report. To leave it early ends the simulation."""
        call = self._stub.Simulate(request, metadata=telemetry.inject())
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            raise self._explain(error) from error
        finally:
            call.cancel()


def _policy(reply: Any) -> policy_pb2.Policy:
    policy: policy_pb2.Policy = reply.policy
    return policy


def _request_id() -> str:
    return os.urandom(16).hex()
