"""Whether a prompt fits the context of its model, told before a job is made of it."""

from __future__ import annotations

import logging

from queen.core import feasibility
from queen.core.model import Worker, WorkerState
from queen.links.workers import WorkerLinks
from queen.registry.cluster import Cluster
from rbee.v1 import job_pb2
from wire import errors

log = logging.getLogger(__name__)

TEMPLATE_BYTES = 64
"""What a chat template puts around one message, bytes at most in the common ones; only decides whether to count."""

_ABLE = (WorkerState.READY, WorkerState.BUSY)


class Prompts:
    """Measures prompts against the largest context their model has or would get."""

    def __init__(self, cluster: Cluster, links: WorkerLinks) -> None:
        self._cluster = cluster
        self._links = links

    async def check(self, spec: job_pb2.JobSpec, model_ref: str) -> None:
        """Raises `Invalid` PROMPT_TOO_LONG for a prompt no worker of the model could take.

        A token is at least one byte, so that a prompt of fewer bytes than the context has tokens costs nothing. A
        longer one is counted by a worker that is ready; what cannot be counted here is left to the worker that gets
        the job.
        """
        if spec.WhichOneof("input") == "embedding":
            return
        most = self._largest_context(model_ref)
        if spec.ByteSize() + TEMPLATE_BYTES * (len(spec.chat.messages) + 1) < most:
            return
        counter = self._counter(model_ref)
        if counter is None:
            return
        try:
            tokens = await self._links.count_tokens(counter, spec)
        except errors.RbeeError as error:
            log.info("%s did not count a prompt: %s", counter.id, error)
            return
        if tokens >= most:
            raise errors.prompt_too_long(tokens, most)

    def _largest_context(self, model_ref: str) -> int:
        """Returns the tokens the roomiest worker holds, one that is there or one that could be started."""
        workers = [
            worker.context_length or worker.spec.context_length
            for worker in self._cluster.find_workers_with_model(model_ref)
            if worker.state in (WorkerState.LOADING, *_ABLE)
        ]
        hives = self._cluster.list_online_hives()
        files = [self._cluster.find_file(model_ref, hive.id) for hive in hives]
        return max((*workers, *(feasibility.context_of(file) for file in files if file is not None)), default=0)

    def _counter(self, model_ref: str) -> Worker | None:
        workers = self._cluster.find_workers_with_model(model_ref)
        return next((one for one in workers if one.state in _ABLE and not one.doubtful), None)
