"""Stands where a worker stands: the same command line, ready callback and EngineService, and misbehaves on request.

`--engine-option do=...`: ready (default), crash, silent, wrong-token, announce-twice, deaf (ignores SIGTERM).
`--engine-option busy=yes`: has one generation that never ends.
"""

import argparse
import asyncio
import os
import signal
import sys
import threading

from rbee.v1 import (
    device_pb2,
    engine_service_pb2,
    engine_service_pb2_grpc,
    hive_agent_service_pb2,
    hive_agent_service_pb2_grpc,
)
from wire.channel import dial
from wire.server import Server


def say(line, stream=sys.stdout):
    stream.write(f"{line}\n")
    stream.flush()


class Engine(engine_service_pb2_grpc.EngineServiceServicer):
    def __init__(self, busy):
        self.busy = busy

    async def GetStatus(self, request, context):
        running = [engine_service_pb2.GenerationStatus(job_id="job")] if self.busy else []
        return engine_service_pb2.GetStatusResponse(generations=running)

    async def Drain(self, request, context):
        say("drain asked")
        if self.busy:
            await asyncio.Event().wait()
        return engine_service_pb2.DrainResponse()


async def announce(hive, token, port, args):
    async with dial(hive) as channel:
        stub = hive_agent_service_pb2_grpc.HiveAgentServiceStub(channel)
        await stub.AnnounceWorker(
            hive_agent_service_pb2.AnnounceWorkerRequest(
                spawn_token=token,
                port=port,
                slots_total=args.slots,
                context_length=args.context_length or 512,
                backend=device_pb2.BACKEND_CPU,
            )
        )


async def main():
    parser = argparse.ArgumentParser()
    for name in ("--model", "--model-ref", "--worker-id", "--engine", "--hive"):
        parser.add_argument(name, required=True)
    parser.add_argument("--slots", type=int)
    parser.add_argument("--context-length", type=int)
    parser.add_argument("--device", action="append")
    parser.add_argument("--engine-option", action="append", default=[])
    args = parser.parse_args()
    options = dict(option.split("=", 1) for option in args.engine_option)
    do = options.get("do", "ready")
    token = os.environ["RBEE_SPAWN_TOKEN"]
    assert token not in " ".join(sys.argv)
    say(f"loading {args.model}")
    if do == "crash":
        for _ in range(30):
            say(options.get("chatter", ""))
        say("cannot load: the tensors are wrong", sys.stderr)
        sys.exit(3)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    if do == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        loop.add_signal_handler(signal.SIGTERM, ended.set)

    def read_to_end():
        while os.read(0, 4096):  # not sys.stdin, whose lock would abort the interpreter's end
            pass
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=read_to_end, daemon=True).start()
    server = Server("scripted worker")
    server.add(engine_service_pb2.DESCRIPTOR.services_by_name["EngineService"], Engine(options.get("busy") == "yes"))
    port = await server.start("127.0.0.1:0")
    if do in ("ready", "deaf", "announce-twice"):
        await announce(args.hive, token, port, args)
    if do == "wrong-token":
        await announce(args.hive, "0" * 64, port, args)
    if do == "announce-twice":
        await announce(args.hive, token, port, args)
    await ended.wait()
    await server.stop(0)


asyncio.run(main())
