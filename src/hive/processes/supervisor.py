"""Starts, watches and ends worker processes. Restarts nothing: that is for the queen to decide."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from hive.core.lifecycle import WorkerEvent, WorkerState
from hive.core.model import Backend, Worker, WorkerExit, WorkerSpec
from hive.processes.child import Child
from hive.processes.output import OutputLines
from hive.processes.ports import EngineLink, Launch
from hive.processes.worker_process import WorkerProcess, describe_exit
from wire import errors
from wire.clock import Clock

log = logging.getLogger(__name__)

FAILED_KEPT_S: Final = 60.0
"""How long a failed worker stays in reports."""
CANNOT_START: Final = 127
"""Exit status of a worker whose process could not be started at all, as a shell would give it."""


class Supervisor:
    """The workers of this machine. Every process lives as long as a task of `tasks`; `on_change` tells of any change.

    `serving` resolves to (address workers call back, host under which the queen reaches workers) once the hive serves.
    """

    def __init__(
        self,
        *,
        tasks: asyncio.TaskGroup,
        launch: Launch,
        serving: asyncio.Future[tuple[str, str]],
        link: EngineLink,
        clock: Clock,
        on_change: Callable[[], None],
    ) -> None:
        self._tasks = tasks
        self._launch = launch
        self._serving = serving
        self._link = link
        self._clock = clock
        self._on_change = on_change
        self._workers: dict[str, WorkerProcess] = {}
        self._closing = False

    def views(self) -> tuple[Worker, ...]:
        """Returns the workers as they are, oldest first; failed ones for a minute."""
        return tuple(worker.view() for worker in self._workers.values())

    def view(self, worker_id: str) -> Worker:
        """Returns one worker; raises `NotFound` WORKER_NOT_FOUND."""
        return self._known(worker_id).view()

    @property
    def running_count(self) -> int:
        """Workers whose process has not ended."""
        return sum(not worker.ended.is_set() for worker in self._workers.values())

    def start(self, spec: WorkerSpec, model_argument: str, ready_timeout_s: float) -> Worker:
        """Begins to start a worker, or joins the start of the same id, and returns it as it is now.

        Raises `Unreachable` HIVE_STOPPING.
        """
        if spec.worker_id not in self._workers:
            if self._closing:
                raise errors.Unreachable("the hive is stopping and starts no workers", "HIVE_STOPPING")
            worker = WorkerProcess(
                spec=spec,
                model_argument=model_argument,
                ready_timeout_s=ready_timeout_s,
                token=self._launch.draw_token(),
                output=OutputLines(spec.worker_id),
            )
            self._workers[spec.worker_id] = worker
            self._tasks.create_task(self._live(worker))
            self._on_change()
        return self._workers[spec.worker_id].view()

    async def ready(self, worker_id: str) -> Worker:
        """Returns a worker once it is ready; the start goes on when the caller stops waiting.

        Raises `Unreachable` WORKER_START_FAILED with its last lines, or WORKER_KILLED when somebody else's signal ended
        it; `NotFound` WORKER_NOT_FOUND.
        """
        worker = self._known(worker_id)
        await worker.settled.wait()
        if worker.state is not WorkerState.READY:
            reason = "WORKER_KILLED" if worker.was_killed else "WORKER_START_FAILED"
            raise errors.Unreachable(worker.why_not_ready(), reason, metadata={"worker_id": worker_id})
        return worker.view()

    def announce(self, token: str, port: int, slots_total: int, context_length: int, backend: Backend) -> str:
        """Takes a worker's ready callback and returns its id. The token is good once.

        Raises `Unauthenticated` BAD_SPAWN_TOKEN for a token that was not given out, was used or is void.
        """
        matching = [worker for worker in self._workers.values() if worker.has_token(token)]
        if not matching:
            log.warning("a worker announced itself with a token that is not good")
            raise errors.Unauthenticated(
                "this spawn token is not good: it was used, or its worker is not wanted any more. "
                "Workers are started with: rbee worker spawn MODEL",
                "BAD_SPAWN_TOKEN",
            )
        (worker,) = matching
        worker.token = None
        worker.apply(WorkerEvent.ANNOUNCED)
        _, host = self._serving.result()
        worker.address = f"{host}:{port}"
        worker.slots_total, worker.context_length, worker.backend = slots_total, context_length, backend
        worker.settled.set()
        log.info("worker is ready on %s", worker.address, extra={"worker_id": worker.spec.worker_id})
        self._on_change()
        return worker.spec.worker_id

    async def stop(self, worker_id: str, grace_s: float) -> WorkerExit:
        """Stops a worker (drain for `grace_s`, SIGTERM, SIGKILL) and returns how it ended, once it has.

        The stop goes on when the caller stops waiting. Raises `NotFound` WORKER_NOT_FOUND.
        """
        return await self._stop(self._known(worker_id), grace_s)

    async def stop_idle(self) -> None:
        """Stops the ready workers that run no generation."""
        for worker in list(self._workers.values()):
            if worker.state is not WorkerState.READY or worker.address is None:
                continue
            running = await self._link.running_generations(worker.address)
            # Looked at again: it may have ended while it was asked.
            if running == 0 and worker.state is WorkerState.READY:
                log.info("an idle worker is stopped: its queen is gone", extra={"worker_id": worker.spec.worker_id})
                await self._stop(worker, 0)

    async def stop_all(self, grace_s: float) -> None:
        """Starts no workers any more, stops all there are, and returns when their processes have ended."""
        self._closing = True
        async with asyncio.TaskGroup() as stops:
            for worker in self._workers.values():
                stops.create_task(self._stop(worker, grace_s))

    def kill_all(self) -> None:
        """Kills every process at once, without waiting."""
        self._closing = True
        for worker in self._workers.values():
            if worker.child is not None:
                worker.child.kill()

    async def _live(self, worker: WorkerProcess) -> None:
        """Is the life of one worker's process, from its start until it is forgotten."""
        facts = {"worker_id": worker.spec.worker_id}
        try:
            worker.child = await self._spawn(worker)
        except OSError as error:
            log.error("worker cannot be started: %s", error, extra=facts)
            worker.output.data_received(f"{self._launch.command[0]}: {error.strerror}\n".encode())
            exit_code = CANNOT_START
        else:
            worker.start_time_s = self._clock.now()
            worker.launched.set()
            log.info("worker is process %d", worker.child.pid, extra=facts)
            self._on_change()
            timer = asyncio.get_running_loop().call_later(worker.ready_timeout_s, self._give_up, worker)
            try:
                exit_code = await worker.child.wait()
            finally:
                timer.cancel()
        worker.end(exit_code, self._clock.now())
        worker.launched.set()
        if worker.state is WorkerState.STOPPED:
            log.info("worker has ended", extra=facts)
            self._forget(worker)
        else:
            log.warning("worker ended by itself with %s", describe_exit(exit_code), extra=facts)
            asyncio.get_running_loop().call_later(FAILED_KEPT_S, self._forget, worker)
            self._on_change()

    async def _spawn(self, worker: WorkerProcess) -> Child:
        spec, (hive_address, _) = worker.spec, await self._serving
        arguments = {
            "--model": worker.model_argument,
            "--model-ref": spec.model_ref,
            "--worker-id": spec.worker_id,
            "--engine": spec.engine,
            "--slots": str(spec.slots),
            "--context-length": str(spec.context_length),
            "--hive": hive_address,
        }
        pairs = [
            *arguments.items(),
            *(("--device", device_id) for device_id in spec.device_ids),
            *(("--engine-option", f"{key}={value}") for key, value in spec.engine_options),
        ]
        argv = [*self._launch.command, *(part for pair in pairs for part in pair)]
        # In the environment and not in argv, which every user of the machine can read.
        environment = {**self._launch.environment, "RBEE_SPAWN_TOKEN": worker.token or ""}
        return await Child.start(argv, environment, worker.output)

    async def _stop(self, worker: WorkerProcess, grace_s: float) -> WorkerExit:
        worker.token = None
        if not worker.ended.is_set():
            worker.apply(WorkerEvent.STOP_REQUESTED)
            self._on_change()
            self._tasks.create_task(self._end(worker, grace_s))
            await worker.ended.wait()
        elif worker.state is WorkerState.FAILED:
            worker.apply(WorkerEvent.STOP_REQUESTED)
            self._forget(worker)
        assert worker.exit is not None, "a worker that has ended has an exit"
        return worker.exit

    async def _end(self, worker: WorkerProcess, grace_s: float) -> None:
        await worker.launched.wait()
        if worker.child is None:
            return
        if grace_s > 0 and worker.address is not None:
            await self._link.drain(worker.address, grace_s)
        worker.child.terminate()
        try:
            async with asyncio.timeout(self._launch.term_wait_s):
                await worker.ended.wait()
        except TimeoutError:
            log.warning("worker did not end when asked and is killed", extra={"worker_id": worker.spec.worker_id})
            worker.child.kill()

    def _give_up(self, worker: WorkerProcess) -> None:
        if worker.state is WorkerState.LOADING and worker.child is not None:
            worker.not_ready_in_time = True
            worker.token = None
            worker.child.kill()

    def _forget(self, worker: WorkerProcess) -> None:
        if self._workers.get(worker.spec.worker_id) is worker:
            del self._workers[worker.spec.worker_id]
            self._on_change()

    def _known(self, worker_id: str) -> WorkerProcess:
        worker = self._workers.get(worker_id)
        if worker is None:
            raise errors.NotFound(
                f"this hive has no worker {worker_id}. See what there is: rbee worker list", "WORKER_NOT_FOUND"
            )
        return worker
