"""A small cluster that is disturbed while callers use it, on a schedule drawn from a seed; see test_chaos.py."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

import rbee
from programs import Queen, alive, free_port
from rbee.v1 import hive_pb2, worker_pb2

HIVES = ("ash", "birch", "cedar")
REAL, SLOW = "rbee-tiny", "synthetic:slow"
SLOTS = 4
SLOW_OPTIONS = {"tokens_per_second": "20"}

LONG = (
    *("Tell me a story", "Tell me a long story", "Tell me a story about a hive"),
    *("What happens to a request?", "How does a request travel through rbee?"),
    *("Write a poem", "Write a poem about bees", "What are the rules of rbee?", "Give me a long list of rules"),
    *("Count to fifty", "Count from one to fifty", "Count to 50"),
)
SHORT = ("What is a hive?", "Who are you?", "What does the sandbox do?", "Why did my job wait?")
STALL_S = 3.0
SORTS = [(number, kind) for number in (signal.SIGKILL, signal.SIGSTOP) for kind in ("worker", "hive", "queen")]
OFTEN = {"worker": 6, "hive": 2, "queen": 2}
LONGEST_STOP_S = {"worker": 7.0, "hive": 5.0, "queen": 5.0}

_SERVING = (worker_pb2.WORKER_STATE_LOADING, worker_pb2.WORKER_STATE_READY, worker_pb2.WORKER_STATE_BUSY)


class Hive:
    """A hive of another machine, as far as the queen can tell. Its data lies below hers, so that it ends with her."""

    def __init__(self, queen: Queen, name: str) -> None:
        self.name = name
        self._queen = queen
        self._listen = f"127.0.0.1:{free_port()}"
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Starts the process without waiting."""
        data_dir = self._queen.data_dir / self.name
        data_dir.mkdir(parents=True, exist_ok=True)
        with (self._queen.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "hive", "--queen", self._queen.address, "--listen", self._listen),
                    *("--name", self.name, "--data-dir", str(data_dir)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is of each model: workers on each hive, and callers with the jobs each of them has."""

    workers: dict[str, int]
    callers: dict[str, tuple[int, int]]


WHOLE = Size({REAL: 2, SLOW: 1}, {REAL: (20, 10), SLOW: (6, 6)})
"""200 jobs with the real model on six workers; slow ones on three more, whose jobs are there to be hit."""

SMALL = Size({REAL: 1, SLOW: 1}, {REAL: (8, 4), SLOW: (4, 3)})


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What is done to one program. `chance` picks which; a stopped one goes on after `lasts_s` seconds."""

    after_s: float
    signal: signal.Signals
    kind: str
    chance: float
    lasts_s: float = 0.0

    def __str__(self) -> str:
        """Returns it in words."""
        return f"{'kill' if self.signal is signal.SIGKILL else 'stop'} {self.kind}"


def schedule(draw: random.Random) -> Iterator[Disturbance]:
    """Yields a hive stopped for longer than silence is borne, one disturbance of each sort, then others without end."""
    first = draw.sample(SORTS, len(SORTS))
    yield Disturbance(0.5, signal.SIGSTOP, "hive", draw.random(), 12.0)
    while True:
        number, kind = first.pop() if first else draw.choices(SORTS, [OFTEN[kind] for _, kind in SORTS])[0]
        yield Disturbance(draw.uniform(0.3, 1.7), number, kind, draw.random(), draw.uniform(0.2, LONGEST_STOP_S[kind]))


@dataclass(frozen=True, slots=True)
class Plan:
    """What one caller does with one job; `way` is infer, submit, leave or cancel, the last two at a moment drawn."""

    way: str
    options: dict[str, Any]
    pause_s: float
    moment_s: float

    @property
    def question(self) -> str:
        """Returns what is asked; the same gets the same answer."""
        return repr([self.options.get(name) for name in ("model", "prompt", "max_tokens")])


def plan(draw: random.Random, model: str, caller: int) -> Plan:
    """Returns what a caller does next."""
    options: dict[str, Any] = {
        "model": model,
        "temperature": 0.0,
        "priority": draw.choice(["interactive", "batch"]),
        "max_tokens": draw.choice([None, None, None, 40 if model == SLOW else 300]),
        "stall_timeout_s": STALL_S,
    }
    # Only what the model was trained to answer: where it is not sure, the batch a token is made in decides which it is.
    options["prompt"] = draw.choice(SHORT) if draw.random() < 0.1 else draw.choice(LONG)
    if draw.random() < 0.3:
        options["session"] = f"talk-{caller}"
    way = draw.choices(["infer", "submit", "leave", "cancel"], [5, 4, 1, 1])[0]
    return Plan(way, options, draw.uniform(0.0, 0.3), draw.uniform(0.0, 2.5))


@dataclass(slots=True)
class Outcome:
    """What a caller saw of one job: its text, its usage when it is complete, else its error."""

    plan: Plan
    request_id: str = field(default_factory=lambda: os.urandom(8).hex())
    job_id: str = ""
    text: str = ""
    tokens: int = 0
    usage: Any = None
    error: rbee.RbeeError | None = None
    faults: list[str] = field(default_factory=list)


class Caller:
    """Asks, one job after the other, and comes back with the same request id when no queen answers."""

    def __init__(self, client: rbee.Client) -> None:
        self._client = client

    async def ask(self, plan: Plan) -> Outcome:
        """Returns what came of one job."""
        outcome = Outcome(plan)
        async with asyncio.TaskGroup() as group:
            following = group.create_task(self._follow(outcome))
            if plan.way in ("leave", "cancel"):
                await asyncio.wait([following], timeout=plan.moment_s)
                if plan.way == "leave":
                    following.cancel()
                    await asyncio.wait([following])
                if outcome.job_id:
                    await self._cancel(outcome.job_id)
        return outcome

    async def _follow(self, outcome: Outcome) -> None:
        options = outcome.plan.options
        try:
            if outcome.plan.way == "submit":
                job = await self._insist(lambda: self._client.submit(request_id=outcome.request_id, **options))
                outcome.job_id = job.id
                await self._read(outcome, self._client.watch(job.id))
            else:
                await self._insist(
                    lambda: self._read(outcome, self._client.infer(request_id=outcome.request_id, **options))
                )
        except rbee.RbeeError as error:
            outcome.error = error

    async def _read(self, outcome: Outcome, answer: rbee.Answer) -> None:
        sequence, job_id = 0, ""
        async with aclosing(answer.events()) as events:
            async for event in events:
                if answer.job_id != job_id:
                    sequence, job_id = 0, answer.job_id
                    outcome.job_id = job_id
                if event.sequence <= sequence:
                    outcome.faults.append(f"sequence {event.sequence} came after {sequence}")
                sequence = event.sequence
                if event.HasField("tokens"):
                    if event.tokens.first_index != outcome.tokens:
                        outcome.faults.append(f"token {event.tokens.first_index} came after {outcome.tokens} tokens")
                    outcome.text += event.tokens.text
                    outcome.tokens += event.tokens.count
        outcome.usage = answer.done.usage

    async def _cancel(self, job_id: str) -> None:
        with suppress(rbee.NotFound):  # the queen was killed before she had noted it down
            await self._insist(lambda: self._client.cancel(job_id))

    async def _insist(self, call: Any) -> Any:
        while True:
            try:
                return await call()
            except (rbee.Unreachable, rbee.TimedOut) as error:
                if error.reason not in ("QUEEN_UNREACHABLE", "QUEEN_STOPPING", "DEADLINE_EXCEEDED", "NO_HIVES"):
                    raise
                await asyncio.sleep(0.2)


class Cluster:
    """Queen, three hives and their workers, with a keeper that starts again what has ended."""

    def __init__(self, folder: Path, wanted: dict[str, int]) -> None:
        self._wanted = wanted
        self.queen = Queen(folder, RBEE_LOG_FORMAT="json")
        self.hives = [Hive(self.queen, name) for name in HIVES]
        self.done: Counter[str] = Counter()
        self.seen: set[psutil.Process] = set()
        self.lasted_s = 0.0
        self._spawning: set[str] = set()

    def launch(self) -> None:
        """Starts queen and hives."""
        self.queen.launch()
        for hive in self.hives:
            hive.launch()

    def workers(self) -> list[psutil.Process]:
        """Returns the worker processes below living hives, and notes all that lives."""
        found = []
        for hive in self.hives:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(hive.process.pid)
                found += process.children()
                self.seen.add(process)
        with suppress(psutil.NoSuchProcess):
            self.seen.add(psutil.Process(self.queen.process.pid))
        self.seen.update(found)
        return sorted(alive(found), key=lambda one: one.pid)

    async def keep(self, client: rbee.Client) -> None:
        """Starts again what has ended, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self.workers()
                for program in (self.queen, *self.hives):
                    if program.process.poll() is not None:
                        program.launch()
                with suppress(rbee.RbeeError):
                    await self._refill(client, group)
                await asyncio.sleep(0.3)

    async def _refill(self, client: rbee.Client, group: asyncio.TaskGroup) -> None:
        online = {hive.id async for hive in client.hives() if hive.state == hive_pb2.HIVE_STATE_HEALTHY}
        have = Counter([(one.hive_id, one.model) async for one in client.workers() if one.state in _SERVING])
        for name in online & set(HIVES) - self._spawning:
            for model, wanted in self._wanted.items():
                if have[name, model] < wanted:
                    self._spawning.add(name)
                    group.create_task(self._spawn(client, name, model))
                    break

    async def _spawn(self, client: rbee.Client, hive: str, model: str) -> None:
        options = SLOW_OPTIONS if model == SLOW else {"threads": "1"}
        try:
            with suppress(rbee.RbeeError):
                await client.spawn_worker(model, hive=hive, slots=SLOTS, engine_options=options)
        finally:
            self._spawning.discard(hive)

    async def full(self, client: rbee.Client) -> list[worker_pb2.Worker]:
        """Returns the workers once all that are wanted, and no others, are there and none has a slot taken."""
        wanted = Counter({(name, model): count for name in HIVES for model, count in self._wanted.items()})
        while True:
            with suppress(rbee.RbeeError):
                workers = [one async for one in client.workers()]
                ready = [one for one in workers if one.state == worker_pb2.WORKER_STATE_READY]
                have = Counter((one.hive_id, one.model) for one in ready)
                if have >= wanted and len(ready) == len(workers) and not self._spawning:
                    return workers
            await asyncio.sleep(0.1)

    async def disturb(self, draw: random.Random) -> None:
        """Does what is on the schedule until cancelled; nothing is left stopped."""
        async with asyncio.TaskGroup() as group:
            for one in schedule(draw):
                await asyncio.sleep(one.after_s)
                group.create_task(self._hit(one))

    async def _hit(self, one: Disturbance) -> None:
        victims = {
            "worker": self.workers,
            "hive": lambda: [hive.process for hive in self.hives],
            "queen": lambda: [self.queen.process],
        }[one.kind]()
        if not victims:
            return
        victim = victims[int(one.chance * len(victims))]
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            victim.send_signal(one.signal)
            self.done[str(one)] += 1
            if one.signal is signal.SIGSTOP:
                try:
                    await asyncio.sleep(one.lasts_s)
                finally:
                    victim.send_signal(signal.SIGCONT)

    def stop(self) -> list[psutil.Process]:
        """Stops everything in order and returns the processes that are left, which should be none."""
        self.workers()
        assert self.queen.stop() == 0, self.queen.log[-4000:]
        for hive in self.hives:
            hive.process.send_signal(signal.SIGTERM)
        for hive in self.hives:
            assert hive.process.wait(60) == 0, f"hive {hive.name}"
        deadline = time.monotonic() + 35  # a worker whose hive was killed may finish what it runs, for 30 s
        while (left := alive(self.seen)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left
