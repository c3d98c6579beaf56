"""What gRPC can, over HTTP: plain curl with JSON and with Protobuf, and a browser's rules."""

import asyncio
import base64
import http.client
import json
import shutil
import socket
import struct
import subprocess
import textwrap
from pathlib import Path

import grpc
import pytest
from connectrpc.code import Code
from connectrpc.errors import ConnectError

from programs import rbee, skip_or_fail, slots_taken, wait_for
from queen.web import connect
from rbee.v1 import (
    hive_service_pb2,
    inference_service_pb2,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
    telemetry_service_pb2,
    telemetry_service_pb2_grpc,
)

ROOT = Path(__file__).parents[2]
LIST = "rbee.v1.HiveService/List"
WATCH = "rbee.v1.TelemetryService/WatchCluster"
INFER = "rbee.v1.InferenceService/Infer"
JSON, PROTO = "application/json", "application/proto"
STREAM_JSON, STREAM_PROTO = "application/connect+json", "application/connect+proto"
HELLO = {"job": {"model": "rbee-tiny", "prompt": "What is a hive?", "sampling": {"maxTokens": 6, "temperature": 0}}}


@pytest.fixture(scope="module")
def curl(web):
    command = shutil.which("curl")
    if command is None:
        skip_or_fail("there is no curl; install it with: apt-get install curl")

    def ask(method, body, kind=JSON, *headers):
        said = [f"content-type: {kind}", *headers]
        done = subprocess.run(
            [command, "-sS", "--max-time", "60", "--data-binary", "@-", "-w", "\n%{http_code}"]
            + [part for one in said for part in ("-H", one)]
            + [f"http://{web.http}/{method}"],
            input=body if isinstance(body, bytes) else json.dumps(body).encode(),
            capture_output=True,
            check=True,
        )
        answer, _, status = done.stdout.rpartition(b"\n")
        return int(status), answer

    return ask


def enveloped(body):
    return struct.pack(">BI", 0, len(body)) + body


def envelopes(body):
    """The messages of a stream, and what it ended with."""
    found = []
    while body:
        flags, size = struct.unpack(">BI", body[:5])
        found.append((flags, body[5 : 5 + size]))
        body = body[5 + size :]
    assert [flags for flags, _ in found] == [0] * (len(found) - 1) + [2]
    return [one for _, one in found[:-1]], json.loads(found[-1][1])


def shown(error):
    return {detail["type"].rpartition(".")[2]: detail["debug"] for detail in error["details"]}


def test_a_call_is_answered_in_json_and_in_binary(curl):
    status, body = curl(LIST, {})
    [hive] = json.loads(body)["hives"]
    assert (status, hive["id"], hive["state"]) == (200, "mill", "HIVE_STATE_HEALTHY")
    status, body = curl(LIST, b"", PROTO)
    [hive] = hive_service_pb2.HiveServiceListResponse.FromString(body).hives
    assert (status, hive.id) == (200, "mill")


def test_an_error_has_its_code_its_reason_and_every_bad_field(curl):
    status, body = curl("rbee.v1.HiveService/Get", {"hiveId": "nobody"})
    error = json.loads(body)
    assert (status, error["code"]) == (404, "not_found")
    assert "there is no hive nobody" in error["message"]
    assert shown(error)["ErrorInfo"] == {"reason": "HIVE_NOT_FOUND", "domain": "rbee"}
    raw = base64.b64decode(error["details"][0]["value"] + "==")
    assert b"HIVE_NOT_FOUND" in raw
    job = {**HELLO["job"], "sampling": {"topP": 7, "temperature": 9}}
    status, body = curl("rbee.v1.JobService/Submit", {"job": job})
    bad = shown(json.loads(body))["BadRequest"]["fieldViolations"]
    assert (status, [one["field"] for one in bad]) == (400, ["job.sampling.temperature", "job.sampling.top_p"])


def test_an_answer_streams_in_json(curl):
    status, body = curl(INFER, enveloped(json.dumps(HELLO).encode()), STREAM_JSON)
    messages, end = envelopes(body)
    assert (status, end) == (200, {})
    told = [json.loads(one) for one in messages]
    assert told[0]["jobId"].startswith("job-")
    events = [event for one in told for event in one["events"]]
    assert sum(event["tokens"]["count"] for event in events if "tokens" in event) == 6
    assert events[-1]["done"]["finishReason"] == "FINISH_REASON_LENGTH"


def test_an_answer_streams_in_binary_and_may_be_watched_again(curl):
    asked = inference_service_pb2.InferRequest(detach=True)
    asked.job.model, asked.job.prompt, asked.job.sampling.max_tokens = "rbee-tiny", "What is a hive?", 6
    _, body = curl(INFER, enveloped(asked.SerializeToString()), STREAM_PROTO)
    messages, _ = envelopes(body)
    told = [inference_service_pb2.InferResponse.FromString(one) for one in messages]
    events = [event for one in told for event in one.events]
    again = job_service_pb2.JobServiceWatchRequest(job_id=told[0].job_id, after_sequence=events[0].sequence)
    _, body = curl("rbee.v1.JobService/Watch", enveloped(again.SerializeToString()), STREAM_PROTO)
    messages, _ = envelopes(body)
    watched = [event for one in messages for event in job_service_pb2.JobServiceWatchResponse.FromString(one).events]
    assert watched == events[1:]


def test_a_stream_that_fails_ends_with_the_error(curl):
    asked = {"job": {**HELLO["job"], "model": "nothing"}}
    status, body = curl(INFER, enveloped(json.dumps(asked).encode()), STREAM_JSON)
    messages, end = envelopes(body)
    assert (status, messages, end["error"]["code"]) == (200, [], "not_found")
    assert shown(end["error"])["ErrorInfo"]["reason"] == "MODEL_NOT_FOUND"


def test_grpc_web_is_spoken_too(curl):
    asked = enveloped(hive_service_pb2.HiveServiceListRequest().SerializeToString())
    status, body = curl(LIST, asked, "application/grpc-web+proto")
    flags, size = struct.unpack(">BI", body[:5])
    assert (status, flags) == (200, 0)
    assert hive_service_pb2.HiveServiceListResponse.FromString(body[5 : 5 + size]).hives[0].id == "mill"
    assert body[5 + size] == 0x80
    assert b"grpc-status: 0" in body


@pytest.mark.parametrize(
    ("method", "body", "kind", "status", "says"),
    [
        (LIST, b"{", JSON, 400, b"INVALID_JSON"),
        (LIST, b'{"pageSize": "many"}', JSON, 400, b"INVALID_JSON"),
        (LIST, b"[" * 50_000, JSON, 400, b"invalid_argument"),
        (LIST, b"\xff\xff", JSON, 400, b"invalid_argument"),
        (LIST, b"\xff\xff", PROTO, 400, b"INVALID_BODY"),
        (LIST, b"{}", "text/plain", 415, b""),
        (LIST, b"", "application/grpc", 415, b"7833"),
        (LIST, b" " * 2**21, JSON, 429, b"larger than"),
        ("rbee.v1.HiveService/Dance", b"{}", JSON, 404, b"nothing is served"),
        ("rbee.v1.LogService/Stream", enveloped(b"{}"), STREAM_JSON, 200, b"What it will do: "),
        ("rbee.v1.TelemetryService/Report", enveloped(b"{}"), STREAM_JSON, 200, b"use gRPC"),
        (INFER, b"{}", STREAM_JSON, 200, b"error"),
    ],
)
def test_bad_input_is_told_what_is_wrong(curl, web, method, body, kind, status, says):
    logged = len(web.log)
    got, answer = curl(method, body, kind)
    assert (got, says in answer) == (status, True), answer
    assert "Traceback" not in web.log[logged:]


def test_pages_of_other_sites_may_not_ask_unless_they_are_named(curl, web):
    assert curl(LIST, {}, JSON, "origin: https://evil.example")[0] == 403
    assert curl(LIST, {}, JSON, "origin: http://127.evil.example")[0] == 403
    assert curl(LIST, {}, JSON, "origin: https://chat.example")[0] == 200
    assert curl(LIST, {}, JSON, "origin: http://localhost:5173")[0] == 200
    assert curl(LIST, {}, JSON, "x-odd: \xff")[0] == 200


def test_a_page_that_is_named_may_ask_and_read(web):
    named = {"origin": "https://chat.example"}
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "connect-protocol-version"}
    connection = http.client.HTTPConnection(web.http)
    connection.request("OPTIONS", f"/{LIST}", headers={**named, **asks})
    answer = connection.getresponse()
    assert (answer.status, answer.read() is not None) == (200, True)
    assert answer.headers["access-control-allow-headers"] == "connect-protocol-version"
    connection.request("POST", f"/{LIST}", b"{}", headers={**named, "content-type": JSON})
    answer = connection.getresponse()
    assert "grpc-status" in answer.headers["access-control-expose-headers"]
    assert json.loads(answer.read())["hives"]


def test_headers_are_what_metadata_is_to_grpc(curl):
    status, body = curl("rbee.v1.JobService/Submit", HELLO, JSON, "x-rbee-tenant: nobody")
    assert (status, shown(json.loads(body))["ErrorInfo"]["reason"]) == (404, "TENANT_NOT_FOUND")
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    status, body = curl("rbee.v1.JobService/Submit", HELLO, JSON, f"traceparent: 00-{trace_id}-00f067aa0ba902b7-01")
    assert (status, json.loads(body)["job"]["traceId"]) == (200, trace_id)


def test_what_operations_tells_can_be_typed(curl, web):
    text = (ROOT / "docs" / "operations.md").read_text()
    section = text.partition("## From a browser or curl: Connect\n")[2].partition("\n## ")[0]
    typed = textwrap.dedent("\n".join(line for line in section.splitlines() if line.startswith("    ")))
    typed = typed.replace("127.0.0.1:7834", web.http).replace("curl ", "curl -sS ")
    done = subprocess.run(["bash", "-e", "-c", typed], capture_output=True, timeout=60, check=True)
    for says in (b'"hives":[', b"JOB_NOT_FOUND", b'"jobId":"job-', b"FINISH_REASON_LENGTH"):
        assert says in done.stdout, done


async def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(connect, "BODY_S", 0.01)
    silence = asyncio.Event()
    with pytest.raises(ConnectError) as refused:
        await connect._in_time(silence.wait)()
    assert refused.value.code is Code.DEADLINE_EXCEEDED


def test_a_deadline_is_the_jobs(curl):
    asked = {"job": {"model": "rbee-tiny", "prompt": "hi", "sampling": {"maxTokens": 400}}}
    _, body = curl(INFER, enveloped(json.dumps(asked).encode()), STREAM_JSON, "connect-timeout-ms: 1")
    assert envelopes(body)[1]["error"]["code"] == "deadline_exceeded"


def read_until(connection, what):
    said = b""
    while what not in said:
        more = connection.recv(65536)
        assert more, said
        said += more
    return said


def begun(web, asked):
    """A connection on which an answer has begun, and the job."""
    connection = socket.create_connection((web.http.partition(":")[0], int(web.http.rpartition(":")[2])), 20)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    body = enveloped(json.dumps(asked).encode())
    head = f"POST /{INFER} HTTP/1.1\r\nhost: {web.http}\r\ncontent-type: {STREAM_JSON}\r\ncontent-length: {len(body)}"
    connection.sendall(head.encode() + b"\r\n\r\n" + body)
    said = read_until(connection, b'"tokens"')
    return connection, said.partition(b'"jobId":"')[2].partition(b'"')[0].decode()


def state_of(web, job_id):
    with grpc.insecure_channel(web.address) as channel:
        got = job_service_pb2_grpc.JobServiceStub(channel).Get(job_service_pb2.JobServiceGetRequest(job_id=job_id))
    return got.job.state


@pytest.fixture(scope="module")
def endless(web):
    """A model that writes on and on, fast."""
    options = ("--engine", "synthetic", "--slots", "2", "--context-length", "9000000")
    pace = ("--engine-option", "completion_tokens=8000000", "--engine-option", "tokens_per_second=0")
    done = rbee(web, "worker", "spawn", "synthetic:endless", *options, *pace)
    assert done.returncode == 0, done.stderr
    job = {"model": "synthetic:endless", "prompt": "hi"}
    return {"job": job}


def test_a_caller_that_goes_away_ends_its_job(web, endless):
    connection, job_id = begun(web, endless)
    connection.close()
    wait_for(lambda: state_of(web, job_id) == job_pb2.JOB_STATE_CANCELLED, "the job is cancelled")
    wait_for(lambda: slots_taken(web) == 0, "its slot is free")


def test_a_caller_that_does_not_read_is_cut_off(web, endless):
    connection, job_id = begun(web, endless)
    wait_for(lambda: state_of(web, job_id) == job_pb2.JOB_STATE_CANCELLED, "the job is cancelled")
    wait_for(lambda: slots_taken(web) == 0, "its slot is free")
    connection.close()
    assert f"the caller of /{INFER} does not read its answer" in web.log


def test_viewers_are_told_when_the_queen_stops(own_queen):
    own_queen.start(hive=False)
    host, _, port = own_queen.http.partition(":")
    with grpc.insecure_channel(own_queen.address) as channel, socket.create_connection((host, int(port)), 20) as page:
        by_grpc = telemetry_service_pb2_grpc.TelemetryServiceStub(channel).WatchCluster(
            telemetry_service_pb2.WatchClusterRequest(), timeout=60
        )
        head = f"POST /{WATCH} HTTP/1.1\r\nhost: {host}\r\ncontent-type: {STREAM_JSON}\r\ncontent-length: 7\r\n\r\n"
        page.sendall(head.encode() + enveloped(b"{}"))
        assert next(by_grpc).full
        read_until(page, b'"full":true')
        assert own_queen.stop() == 0
        with pytest.raises(grpc.RpcError, match="the queen is stopping"):
            list(by_grpc)
        assert b"QUEEN_STOPPING" in b"".join(iter(lambda: page.recv(65536), b""))
    assert "Traceback" not in own_queen.log


@pytest.mark.parametrize("interval", ["0.01s", "-1s", "4000s"])
def test_a_cluster_is_not_watched_at_any_pace(curl, interval):
    _, body = curl(WATCH, enveloped(json.dumps({"interval": interval}).encode()), STREAM_JSON)
    [bad] = shown(envelopes(body)[1]["error"])["BadRequest"]["fieldViolations"]
    assert bad["field"] == "interval"
