"""The calls about policies for programs without an event loop."""

from __future__ import annotations

from collections.abc import Iterator

from client.loop import Loop
from client.policies import PolicyCalls
from rbee.v1 import policy_pb2, policy_service_pb2

pb = policy_service_pb2


class SyncPolicies:
    """What a queen can be asked about policies. Each method is that of `PolicyCalls`, but blocks."""

    def __init__(self, calls: PolicyCalls, loop: Loop) -> None:
        self._calls = calls
        self._loop = loop

    def validate(self, source: str, file_name: str) -> pb.PolicyServiceValidateResponse:
        """Returns what is wrong with a policy's text."""
        return self._loop.wait(self._calls.validate(source, file_name))

    def test(
        self, source: str, file_name: str, cases_yaml: str, cases_file_name: str
    ) -> list[policy_pb2.PolicyCaseResult]:
        """Returns how each case of a file went."""
        return self._loop.wait(self._calls.test(source, file_name, cases_yaml, cases_file_name))

    def save(self, name: str, source: str, *, version: str = "", file_name: str = "") -> policy_pb2.Policy:
        """Returns the version a text was saved as, or is already; `file_name` tells Lua from YAML."""
        return self._loop.wait(self._calls.save(name, source, version=version, file_name=file_name))

    def activate(self, name: str, version: str = "") -> policy_pb2.Policy:
        """Lets a version decide, the newest unless told; returns it."""
        return self._loop.wait(self._calls.activate(name, version))

    def rollback(self) -> policy_pb2.Policy:
        """Lets the version decide that was active before; returns it."""
        return self._loop.wait(self._calls.rollback())

    def list(self, name: str = "") -> Iterator[policy_pb2.Policy]:
        """Yields the newest version of each policy, or all versions of one; without their texts."""
        return self._loop.each(self._calls.list(name))

    def get(self, name: str, version: str = "") -> policy_pb2.Policy:
        """Returns a version with its text, the newest unless told."""
        return self._loop.wait(self._calls.get(name, version))

    def standing(self) -> pb.PolicyServiceGetStandingResponse:
        """Returns which policy decides and how it fares."""
        return self._loop.wait(self._calls.standing())

    def platform_source(self) -> str:
        """Returns the source of the built-in policy."""
        return self._loop.wait(self._calls.platform_source())

    def templates(self) -> Iterator[policy_pb2.PolicyTemplate]:
        """Yields the commented starts by name."""
        return self._loop.each(self._calls.templates())

    def simulate(self, request: pb.PolicyServiceSimulateRequest) -> Iterator[pb.PolicyServiceSimulateResponse]:
        """Yields the progress of a simulation, then its report. To leave it early ends the simulation."""
        return self._loop.each(self._calls.simulate(request))
