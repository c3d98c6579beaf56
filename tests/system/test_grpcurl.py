"""A program that knows nothing of rbee works with queen, hive and worker by what they tell about themselves."""

import json
import re
import subprocess

import grpc
import pytest

from programs import running_queen, skip_or_fail
from rbee.v1 import hive_service_pb2, hive_service_pb2_grpc, worker_service_pb2, worker_service_pb2_grpc
from toolchains import Missing
from toolchains import grpcurl as find_grpcurl

pytestmark = pytest.mark.timeout(600)  # building grpcurl the first time takes minutes on a small machine

STANDARD = {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
HEALTH = "grpc.health.v1.Health/Check"
INFER = "rbee.v1.InferenceService/Infer"


@pytest.fixture(scope="module")
def grpcurl():
    try:
        command = find_grpcurl()
    except Missing as problem:
        skip_or_fail(problem)

    def call(*arguments):
        done = subprocess.run(
            [str(command), "-plaintext", *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.fixture(scope="module")
def cluster(grpcurl, tmp_path_factory):
    """The addresses of a queen, her hive and its worker with the model synthetic:x, which answers with 10 tokens."""
    with running_queen(tmp_path_factory.mktemp("grpcurl")) as queen:
        with grpc.insecure_channel(queen.address) as channel:
            hives = hive_service_pb2_grpc.HiveServiceStub(channel)
            [hive] = hives.List(hive_service_pb2.HiveServiceListRequest()).hives
            workers = worker_service_pb2_grpc.WorkerServiceStub(channel)
            spawned = workers.Spawn(
                worker_service_pb2.WorkerServiceSpawnRequest(
                    model="synthetic:x", engine="synthetic", engine_options={"completion_tokens": "10"}
                ),
                timeout=60,
            )
        yield {"queen": queen.address, "hive": hive.address, "worker": spawned.worker.address}


def listed(grpcurl, address):
    status, out, err = grpcurl(address, "list")
    assert status == 0, err
    return set(out.split())


def test_each_program_lists_its_services(grpcurl, cluster):
    nouns = ["Hive", "Inference", "Job", "Log", "Model", "Policy", "Telemetry", "Tenant", "Trace", "Worker"]
    assert listed(grpcurl, cluster["queen"]) == STANDARD | {f"rbee.v1.{noun}Service" for noun in nouns}
    assert listed(grpcurl, cluster["hive"]) == STANDARD | {"rbee.v1.HiveAgentService"}
    assert listed(grpcurl, cluster["worker"]) == STANDARD | {"rbee.v1.EngineService"}


def test_a_service_is_described(grpcurl, cluster):
    status, out, err = grpcurl(cluster["queen"], "describe", "rbee.v1.InferenceService")
    assert status == 0, err
    assert out.startswith("rbee.v1.InferenceService is a service:")
    assert "rpc Infer ( .rbee.v1.InferRequest ) returns ( stream .rbee.v1.InferResponse );" in out


def test_an_answer_streams(grpcurl, cluster):
    asked = {"job": {"model": "synthetic:x", "prompt": "hi", "sampling": {"max_tokens": 5}}}
    status, out, err = grpcurl("-d", json.dumps(asked), cluster["queen"], INFER)
    assert status == 0, err
    messages = documents(out)
    assert len(messages) > 1
    assert messages[0]["job_id"]
    events = [event for message in messages for event in message["events"]]
    assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
    assert sum(event["tokens"]["count"] for event in events if "tokens" in event) == 5
    assert events[-1]["done"]["finish_reason"] == "FINISH_REASON_LENGTH"
    assert events[-1]["done"]["usage"]["completion_tokens"] == 5


def test_a_wrong_request_is_refused_with_details_it_can_read(grpcurl, cluster):
    asked = {"job": {"model": "synthetic:x", "prompt": "hi", "sampling": {"top_p": 7, "temperature": 9}}}
    status, out, err = grpcurl("-format-error", "-d", json.dumps(asked), cluster["queen"], INFER)
    assert (status, out) == (64 + grpc.StatusCode.INVALID_ARGUMENT.value[0], "")
    details = {detail["@type"].rpartition(".")[2]: detail for detail in documents(err)[0]["details"]}
    fields = [violation["field"] for violation in details["BadRequest"]["field_violations"]]
    assert fields == ["job.sampling.temperature", "job.sampling.top_p"]


def test_what_is_not_served_yet_says_what_it_will_do(grpcurl, cluster):
    status, _, err = grpcurl("-d", "{}", cluster["queen"], "rbee.v1.LogService/Stream")
    assert status == 64 + grpc.StatusCode.UNIMPLEMENTED.value[0]
    promise = err.partition("LogService.Stream is not served by this version yet. What it will do: ")[2]
    assert "." in promise, err


@pytest.mark.parametrize(
    ("program", "service"),
    [("queen", "rbee.v1.InferenceService"), ("hive", "rbee.v1.HiveAgentService"), ("worker", "rbee.v1.EngineService")],
)
def test_each_service_tells_its_health(grpcurl, cluster, program, service):
    status, out, err = grpcurl("-d", json.dumps({"service": service}), cluster[program], HEALTH)
    assert (status, json.loads(out)) == (0, {"status": "SERVING"}), err
    status, _, err = grpcurl("-d", '{"service": "rbee.v1.Nobody"}', cluster[program], HEALTH)
    assert status == 64 + grpc.StatusCode.NOT_FOUND.value[0], err


def documents(text):
    """The JSON documents that follow each other in a text, keys as in the contract: some grpcurls write jobId."""
    decoder, found = json.JSONDecoder(object_hook=with_contract_names), []
    while text := text.lstrip():
        document, end = decoder.raw_decode(text)
        found.append(document)
        text = text[end:]
    return found


def with_contract_names(fields):
    return {re.sub("[A-Z]", lambda capital: f"_{capital[0].lower()}", name): value for name, value in fields.items()}
