"""PolicyService: the owner's programs for the scheduler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, Final, TypeVar

import grpc

from queen.core.ports import Store
from queen.core.versions import PLATFORM, PolicyVersion
from queen.policy import check, platform, trial
from queen.policy.files import PolicyFiles
from queen.policy.templates import templates
from queen.policy.versions import Policies
from queen.policy.yaml_compiler import Problem
from queen.scheduler.policy import PolicyScheduler
from queen.services import paging
from queen.services.decisions import list_decisions
from queen.services.simulations import Simulations
from queen.services.turns import Turns
from rbee.v1 import policy_pb2, policy_service_pb2, policy_service_pb2_grpc
from wire import errors
from wire.errors import FieldFault

pb = policy_service_pb2
Context = grpc.aio.ServicerContext[Any, Any]
Item = TypeVar("Item")

LOCAL: Final = "local"
"""Author of what comes over the loopback interface, where nobody says who they are."""

TRIALS_AT_ONCE: Final = 2
TRIALS_WAITING: Final = 16
"""Texts that are validated, tested or saved: each takes a processor for a second, a bad one for a minute."""
TRIALS_RETRY_S: Final = 10.0

LANGUAGES: Final = {
    policy_pb2.POLICY_LANGUAGE_UNSPECIFIED: "",
    policy_pb2.POLICY_LANGUAGE_LUA: check.LUA,
    policy_pb2.POLICY_LANGUAGE_YAML: check.YAML,
}
_NUMBERS: Final = {word: number for number, word in LANGUAGES.items()}


class PolicyService(policy_service_pb2_grpc.PolicyServiceServicer):
    """Validates, tests, saves, activates and simulates policies. `scheduler` None: the queen runs without policies.

    `protections` returns what the sandbox says holds of it.
    """

    def __init__(
        self,
        *,
        policies: Policies,
        scheduler: PolicyScheduler | None,
        files: PolicyFiles | None,
        protections: Callable[[], Sequence[str]],
        simulations: Simulations,
        store: Store,
    ) -> None:
        self._policies = policies
        self._scheduler = scheduler
        self._files = files
        self._protections = protections
        self._simulations = simulations
        self._store = store
        self._trials = Turns(
            "policies under test",
            "TRIALS_RUNNING",
            at_once=TRIALS_AT_ONCE,
            most_waiting=TRIALS_WAITING,
            retry_s=TRIALS_RETRY_S,
        )

    async def ListDecisions(
        self, request: pb.PolicyServiceListDecisionsRequest, context: Context
    ) -> pb.PolicyServiceListDecisionsResponse:
        """Lists decisions, newest first."""
        return await list_decisions(self._store, request)

    async def Validate(
        self, request: pb.PolicyServiceValidateRequest, context: Context
    ) -> pb.PolicyServiceValidateResponse:
        """Tells everything that is wrong with a text."""
        _raise(check.size_faults(source=request.source), _language_faults("language", request.language))
        name = request.file_name or "policy"
        async with self._trials.turn():
            checked = await check.check(request.source, name, LANGUAGES[request.language])
        return pb.PolicyServiceValidateResponse(
            valid=checked.valid,
            problems=[_problem(problem) for problem in checked.problems],
            compiled_lua=checked.compiled_lua,
        )

    async def Test(self, request: pb.PolicyServiceTestRequest, context: Context) -> pb.PolicyServiceTestResponse:
        """Tells how each case went."""
        faults = check.size_faults(source=request.source, cases_yaml=request.cases_yaml)
        _raise(faults, _language_faults("language", request.language))
        name = request.file_name or "policy"
        async with self._trials.turn():
            made = await check.compiled(request.source, name, LANGUAGES[request.language])
            if not made.valid:
                raise check.refused(made.problems, name)
            results = await trial.run_cases_apart(
                request.cases_yaml,
                request.cases_file_name or "cases",
                source=made.compiled_lua,
                name=name,
                platform_source=platform.source(),
            )
        answer = pb.PolicyServiceTestResponse()
        for one in results:
            answer.results.add(name=one.name, line=one.line, passed=one.passed, expected=one.expected, got=one.got)
        return answer

    async def Save(self, request: pb.PolicyServiceSaveRequest, context: Context) -> pb.PolicyServiceSaveResponse:
        """Stores a version that is valid."""
        _raise(_language_faults("language", request.language))
        async with self._trials.turn():
            saved = await self._policies.save(
                name=request.name,
                source=request.source,
                language=LANGUAGES[request.language],
                version=request.version,
                author=LOCAL,
                file_name=request.file_name,
            )
        return pb.PolicyServiceSaveResponse(policy=self._message(saved))

    async def Activate(
        self, request: pb.PolicyServiceActivateRequest, context: Context
    ) -> pb.PolicyServiceActivateResponse:
        """Lets a version decide from the next cycle on."""
        policy = await self._policies.activate(request.name, request.version, request.request_id)
        return pb.PolicyServiceActivateResponse(policy=self._message(policy))

    async def Rollback(
        self, request: pb.PolicyServiceRollbackRequest, context: Context
    ) -> pb.PolicyServiceRollbackResponse:
        """Lets the version decide that was active before."""
        return pb.PolicyServiceRollbackResponse(policy=self._message(await self._policies.rollback(request.request_id)))

    async def List(self, request: pb.PolicyServiceListRequest, context: Context) -> pb.PolicyServiceListResponse:
        """Lists the newest version of each policy and the platform policy, or all versions of one."""
        found: list[PolicyVersion | None] = [*await self._policies.listed(request.name)]
        if request.name in ("", PLATFORM):
            found.append(None)
        listed = [self._message(policy, with_text=False) for policy in found]
        page, next_token = _cut(listed, lambda one: f"{one.name}@{one.version}", request.page_size, request.page_token)
        return pb.PolicyServiceListResponse(policies=page, next_page_token=next_token)

    async def Get(self, request: pb.PolicyServiceGetRequest, context: Context) -> pb.PolicyServiceGetResponse:
        """Answers with a version and its text."""
        asked_platform = request.name == PLATFORM and not request.version
        policy = None if asked_platform else await self._policies.get(request.name, request.version)
        return pb.PolicyServiceGetResponse(policy=self._message(policy))

    async def GetStanding(
        self, request: pb.PolicyServiceGetStandingRequest, context: Context
    ) -> pb.PolicyServiceGetStandingResponse:
        """Tells which policy decides and how it fares."""
        faulty = self._files.faults if self._files is not None else {}
        answer = pb.PolicyServiceGetStandingResponse(protections=self._protections())
        for name, message in sorted(faulty.items()):
            answer.faulty_files.add(file_name=name, message=message)
        if self._scheduler is None:
            return answer
        standing = self._scheduler.standing
        answer.policy.name, answer.policy.version, answer.policy.active = standing.name, standing.version, True
        answer.policy.suspension = self._suspension()
        answer.failures = standing.failures
        answer.last_failure = standing.last_failure or self._policies.unusable
        return answer

    async def Simulate(self, request: pb.PolicyServiceSimulateRequest, context: Context) -> None:
        """Streams progress of a simulation, then its report."""
        await self._simulations.run(request, context)

    async def GetPlatformSource(
        self, request: pb.PolicyServiceGetPlatformSourceRequest, context: Context
    ) -> pb.PolicyServiceGetPlatformSourceResponse:
        """Answers with the built-in policy."""
        return pb.PolicyServiceGetPlatformSourceResponse(source=platform.source(), version=version("rbee"))

    async def ListTemplates(
        self, request: pb.PolicyServiceListTemplatesRequest, context: Context
    ) -> pb.PolicyServiceListTemplatesResponse:
        """Lists commented starts for a policy of one's own."""
        page, next_token = _cut(templates(), lambda one: one.name, request.page_size, request.page_token)
        answer = pb.PolicyServiceListTemplatesResponse(next_page_token=next_token)
        for one in page:
            answer.templates.add(
                name=one.name,
                summary=one.summary,
                language=_NUMBERS[one.language],
                source=one.source,
                cases_yaml=one.cases,
            )
        return answer

    def _message(self, policy: PolicyVersion | None, *, with_text: bool = True) -> policy_pb2.Policy:
        """Returns a version as the contract has it; None is the platform policy."""
        if policy is None:
            text = platform.source() if with_text else ""
            message = policy_pb2.Policy(name=PLATFORM, source=text, compiled_lua=text, author="rbee")
            message.language = policy_pb2.POLICY_LANGUAGE_LUA
        else:
            message = policy_pb2.Policy(
                name=policy.name,
                version=policy.version,
                language=_NUMBERS[policy.language],
                source=policy.source if with_text else "",
                compiled_lua=policy.compiled_lua if with_text else "",
                sha256=policy.sha256,
                author=policy.author,
            )
            message.create_time.FromNanoseconds(round(policy.create_time * 1e9))
        if self._scheduler is not None:
            standing = self._scheduler.standing
            message.active = (message.name, message.version) == (standing.name, standing.version)
            message.suspension = self._suspension() if message.active else ""
        return message

    def _suspension(self) -> str:
        """Returns why the active policy is suspended, "" when it is not."""
        if self._scheduler is None or not self._scheduler.standing.suspended:
            return ""
        return self._scheduler.standing.last_failure or self._policies.charge.suspension


def _problem(problem: Problem) -> policy_pb2.PolicyProblem:
    return policy_pb2.PolicyProblem(
        line=problem.line,
        column=problem.column,
        message=problem.message,
        source_line=problem.source_line,
        fatal=problem.fatal,
    )


def _language_faults(field: str, language: int) -> list[FieldFault]:
    return [] if language in LANGUAGES else [FieldFault(field, f"lua, yaml or unspecified, not {language}")]


def _raise(*faults: list[FieldFault]) -> None:
    """Raises `Invalid` when there is any fault."""
    if found := [fault for some in faults for fault in some]:
        raise errors.invalid(found)


def _cut(items: Sequence[Item], key: Callable[[Item], str], size: int, page_token: str) -> tuple[Sequence[Item], str]:
    """Returns one page of items in their order, and the next page's token ("" on the last)."""
    keys, most, after = [key(item) for item in items], paging.page_size(size), paging.key_of(page_token)
    if after and after not in keys:
        raise errors.invalid([FieldFault("page_token", "the next_page_token of this list's page before, or empty")])
    start = keys.index(after) + 1 if after else 0
    end = start + most
    return items[start:end], paging.token(keys[end - 1]) if end < len(items) else ""
