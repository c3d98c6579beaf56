"""What the policy in charge is asked about single jobs: whether one may come in, and whether it may be tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import islice

from queen.core.model import Action, Decision, Job, Proposal, Verdict
from queen.core.ports import Journal, PolicyInCharge
from queen.registry.cluster import Cluster
from queen.registry.jobs import JobTable
from queen.scheduler.cycle import WINDOW
from wire import errors
from wire.clock import Clock
from wire.tasks import supervised


class PolicyAdvice:
    """Asks the policy with the queue in view; what it refuses is kept as a decision about the job.

    `policy` None: nobody is asked. Its tasks live in `group`.
    """

    def __init__(
        self,
        policy: PolicyInCharge | None,
        *,
        jobs: JobTable,
        cluster: Cluster,
        store: Journal,
        clock: Clock,
        new_id: Callable[[str], str],
        group: asyncio.TaskGroup,
    ) -> None:
        self._policy = policy
        self._jobs = jobs
        self._cluster = cluster
        self._store = store
        self._clock = clock
        self._new_id = new_id
        self._group = group

    def answers(self, entry_point: str) -> bool:
        """Returns whether there is anybody to ask."""
        return self._policy is not None and self._policy.answers(entry_point)

    async def may_come_in(self, job: Job) -> Verdict:
        """Returns what should_admit says of a job that is not in the queue yet."""
        assert self._policy is not None, "it answers"
        begun, now = self._clock.monotonic(), self._clock.now()
        verdict = await self._answer(self._policy.should_admit(job, self._queue(now), self._cluster, now))
        return self._kept(verdict, job, "not let in", begun)

    async def may_try_again(self, job: Job, error: str) -> Verdict:
        """Returns what should_retry says of a job whose newest attempt failed, `error` being the failure's reason."""
        assert self._policy is not None, "it answers"
        begun, now = self._clock.monotonic(), self._clock.now()
        verdict = await self._answer(self._policy.should_retry(job, self._queue(now), self._cluster, now, error))
        return self._kept(verdict, job, f"not tried again after {error}", begun)

    async def _answer(self, question: Awaitable[Verdict]) -> Verdict:
        """Returns the answer, which is heard even if whoever asks has gone: to cut a question off costs a sandbox."""
        answer: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()

        async def heard() -> None:
            try:
                verdict = await question
                if not answer.done():
                    answer.set_result(verdict)
            except asyncio.CancelledError:
                answer.cancel()
                raise

        def failed(error: errors.RbeeError) -> None:
            if not answer.done():
                answer.set_exception(error)

        self._group.create_task(supervised(heard(), "a question to the policy", failed), name="policy question")
        return await answer

    def _queue(self, now: float) -> list[Job]:
        return [live.job for live in islice(self._jobs.queued(now), WINDOW)]

    def _kept(self, verdict: Verdict, job: Job, what: str, begun: float) -> Verdict:
        if verdict.yes:
            return verdict
        verdict = replace(verdict, reason=verdict.reason or "it does not say why")
        self._store.save_decision(
            Decision(
                id=self._new_id("dec"),
                proposal=Proposal(job.id, Action.REJECT, f"{what}: {verdict.reason}"),
                policy=verdict.policy,
                policy_version=verdict.policy_version,
                decide_time=self._clock.now(),
                duration_s=self._clock.monotonic() - begun,
            )
        )
        return verdict
