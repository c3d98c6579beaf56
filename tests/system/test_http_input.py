"""Whatever comes over HTTP, the answer is clear, and no slot, connection or memory is left behind."""

import asyncio
import json
import socket
import subprocess
from contextlib import ExitStack, closing

import psutil
import pytest

import rbee
from programs import rbee as keeper
from programs import running_queen, skip_or_fail, slots_taken, wait_for
from rbee.v1 import job_pb2
from wire.channel import split_address

PATH = "/v1/chat/completions"
QUESTION = {"model": "rbee-tiny", "messages": [{"role": "user", "content": "What is a hive?"}], "temperature": 0}
CHAT = json.dumps({**QUESTION, "max_tokens": 5}).encode()
SLOW = "synthetic:input"


def connected(web):
    found = socket.create_connection(split_address(web.http), timeout=20)
    return closing(found)


def request(body=b"", *, path=PATH, method="POST", headers=()):
    given = {"host": "here", "content-type": "application/json", "content-length": str(len(body)), **dict(headers)}
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items() if value is not None)
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def read_answer(connection):
    """Returns status, headers and the whole body."""
    file = connection.makefile("rb")
    status = int(file.readline().split()[1])
    headers = dict(line.decode().rstrip().split(": ", 1) for line in iter(file.readline, b"\r\n"))
    return status, headers, file.read(int(headers["content-length"]))


def asked(web, *raw, **more):
    with connected(web) as connection:
        connection.sendall(raw[0] if raw else request(**more))
        return read_answer(connection)


def error_of(answer):
    status, headers, body = answer
    assert headers["content-type"] == "application/json"
    error = json.loads(body)["error"]
    assert error.keys() >= {"message", "type", "param", "code"}
    return status, error["code"]


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left(web):
    """All slots are free, no job goes on and no connection is open when these tests are through."""
    options = ("--engine", "synthetic", "--slots", "2", "--context-length", "9000000")
    pace = ("--engine-option", "completion_tokens=8000000", "--engine-option", "tokens_per_second=0")
    assert keeper(web, "worker", "spawn", SLOW, *options, *pace).returncode == 0
    asked(web, body=CHAT)
    before = len(connections(web))
    yield
    wait_for(lambda: len(connections(web)) <= before, "connections are closed")

    wait_for(lambda: slots_taken(web) == 0, "all slots are free")
    asyncio.run(all_at_rest(web))
    assert "Traceback" not in web.log
    assert " ERROR " not in web.log


async def all_at_rest(web):
    resting = (job_pb2.JOB_STATE_COMPLETE, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED)
    async with rbee.connect(web.address) as queen:
        assert [job.id async for job in queen.list_jobs() if job.state not in resting] == []


def connections(web):
    _, port = split_address(web.http)
    return [one for one in psutil.Process(web.process.pid).net_connections() if one.laddr.port == port]


@pytest.mark.parametrize(
    ("expected", "wanted"),
    [
        ((400, "invalid_json"), {"body": b"{nonsense"}),
        ((400, "invalid_json"), {"body": b""}),
        ((400, "invalid_json"), {"body": b"[]"}),
        ((400, "invalid_json"), {"body": b'{"model": "\xff"}'}),
        ((400, "invalid_json"), {"body": b'{"model": "\\ud800"}'}),
        ((400, "invalid_json"), {"body": b'{"temperature": NaN}'}),
        ((400, "invalid_json"), {"body": b"[" * 100_000}),
        ((400, "invalid_value"), {"body": b"{}"}),
        ((400, "invalid_value"), {"body": b'{"model": 7, "messages": "x", "stream": "yes"}'}),
        ((415, "unsupported_media_type"), {"body": CHAT, "headers": {"content-type": "text/plain"}}),
        ((415, "unsupported_media_type"), {"body": CHAT, "headers": {"content-encoding": "gzip"}}),
        ((400, "invalid_value"), {"body": CHAT, "headers": {"x-rbee-priority": "high"}}),
        ((400, "invalid_value"), {"body": CHAT, "headers": {"x-rbee-deadline": "soon"}}),
        ((400, "invalid_value"), {"body": CHAT, "headers": {"x-rbee-colour": "red"}}),
        ((404, "path_not_found"), {"path": "/v1/nothing"}),
        ((405, "method_not_allowed"), {"method": "GET"}),
        ((405, "method_not_allowed"), {"path": "/v1/models", "method": "DELETE"}),
        ((404, "model_not_found"), {"path": "/v1/models/%2e%2e%2fetc%2fpasswd", "method": "GET"}),
        ((403, "origin_not_allowed"), {"body": CHAT, "headers": {"origin": "https://evil.example"}}),
    ],
)
def test_what_is_wrong_is_told_in_openais_shape(web, expected, wanted):
    assert error_of(asked(web, **wanted)) == expected


@pytest.mark.parametrize(
    ("status", "sent"),
    [
        (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        (400, b"GET / HTTP/1.1\r\nhost here\r\n\r\n"),
        (400, b"POST /v1/chat/completions HTTP/1.1\r\nx-request-id: a\rset-cookie: b\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        (400, b"GET /\xff HTTP/1.1\r\nhost: here\r\n\r\n"),
        (431, b"GET / HTTP/1.1\r\n" + b"x-long: " + b"x" * 100_000),
    ],
)
def test_what_is_no_http_is_refused_and_the_connection_closed(web, status, sent):
    answer = asked(web, sent)
    assert answer[0] == status
    assert answer[1]["connection"] == "close"


def test_bodies_over_the_limit_are_refused_before_and_while_they_come(web):
    assert error_of(asked(web, request(headers={"content-length": str(2**21)}))) == (413, "body_too_large")
    chunk = b"10000\r\n" + b" " * 2**16 + b"\r\n"
    head = request(headers={"content-length": None, "transfer-encoding": "chunked"})
    with connected(web) as connection:
        connection.sendall(head + chunk * 17)
        assert error_of(read_answer(connection)) == (413, "body_too_large")


def test_no_header_can_be_smuggled_into_an_answer(web):
    for name in ("x-request-id", "x-rbee-session", "x-rbee-label-x"):
        _, headers, _ = asked(web, body=CHAT, headers={name: "a%0d%0aset-cookie: b"})
        assert "set-cookie" not in headers
    for given in ("x" * 200, "caf\xc3\xa9", "a b"):
        _, headers, _ = asked(web, path="/healthz", method="GET", headers={"x-request-id": given})
        assert headers["x-request-id"].startswith("req-")
    assert asked(web, path="/healthz", method="GET", headers={"x-request-id": "a-1"})[1]["x-request-id"] == "a-1"


def test_pages_of_other_sites_ask_only_where_they_may(web):
    asks = {"origin": "https://chat.example", "access-control-request-method": "POST"}
    with connected(web) as connection:
        connection.sendall(request(method="OPTIONS", headers=asks))
        status, headers, _ = read_answer(connection)
    assert (status, headers["access-control-allow-origin"]) == (200, "https://chat.example")
    for origin in ("https://chat.example", "http://localhost:5173"):
        assert asked(web, path="/healthz", method="GET", headers={"origin": origin})[0] == 200


def test_requests_one_after_another_and_all_at_once_on_one_connection(web):
    with connected(web) as connection:
        connection.sendall(request(body=CHAT) * 3)
        for _ in range(3):
            status, _, body = read_answer_exactly(connection)
            assert (status, json.loads(body)["usage"]["completion_tokens"]) == (200, 5)


def read_answer_exactly(connection):
    """Returns an answer, leaving what follows unread."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)
    body = b""
    while len(body) < int(headers["content-length"]):
        body += connection.recv(int(headers["content-length"]) - len(body))
    return int(head.split()[1]), headers, body


async def test_a_slow_reader_loses_his_job_with_a_reason(web):
    body = json.dumps({**QUESTION, "model": SLOW, "stream": True}).encode()
    with connected(web) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(request(body=body))
        head = connection.recv(4000)
        job_id = head.decode().partition("x-rbee-job: ")[2].partition("\r\n")[0]
        with pytest.raises(rbee.RbeeError, match="its caller did not read what it wrote for 1 s"):
            async with rbee.connect(web.address) as queen:
                [event async for event in queen.watch(job_id, 10**9).events()]


async def test_callers_cut_off_at_any_moment_leave_nothing(web):
    body = json.dumps({**QUESTION, "model": SLOW, "stream": True}).encode()
    whole = request(body=body)
    for size in (0, 1, 20, len(whole) - len(body), len(whole) - 1, len(whole)):
        with connected(web) as connection:
            connection.sendall(whole[:size])
            if size == len(whole):
                connection.recv(100)
            connection.shutdown(socket.SHUT_WR)
    # What they asked for ends: the fixture at the top waits for it.


def test_two_thousand_idle_connections_do_not_stop_service(web):
    with ExitStack() as idle:
        for number in range(2000):
            connection = idle.enter_context(connected(web))
            if number % 2:
                connection.sendall(b"POST /v1/chat/comp")
        assert asked(web, body=CHAT)[0] == 200
        memory = psutil.Process(web.process.pid).memory_info().rss
        assert memory < 400 * 2**20
    assert asked(web, body=CHAT)[0] == 200


def test_curl_streams(web):
    try:
        said = subprocess.run(
            [
                *("curl", "-sS", "-N", "-H", "content-type: application/json"),
                *("-d", json.dumps({**QUESTION, "stream": True}), f"http://{web.http}{PATH}"),
            ],
            capture_output=True,
            text=True,
            timeout=30,
        )
    except FileNotFoundError:
        skip_or_fail("there is no curl; install it with: apt-get install curl")
    events = said.stdout.strip().split("\n\n")
    assert all(event.startswith("data: ") for event in events), said
    assert events[-1] == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks).startswith("A hive is ")


def test_a_queen_that_stops_lets_streams_finish_and_takes_no_more(own_queen):
    own_queen.start()
    options = ("--engine-option", "completion_tokens=50")
    assert keeper(own_queen, "worker", "spawn", "synthetic:s", "--engine", "synthetic", *options).returncode == 0
    body = json.dumps({**QUESTION, "model": "synthetic:s", "stream": True}).encode()
    with connected(own_queen) as running, connected(own_queen) as late:
        running.sendall(request(body=body))
        begun = running.recv(4000)
        assert begun.startswith(b"HTTP/1.1 200 OK")
        own_queen.process.terminate()
        wait_for(lambda: "stopping: no new jobs" in own_queen.log, "she stops")
        late.sendall(request(path="/readyz", method="GET", headers={"content-length": None}))
        status, _, told = read_answer_exactly(late)
        assert (status, json.loads(told)["faults"]) == (503, ["the queen is stopping"])
        late.sendall(request(body=body))
        status, headers, told = read_answer_exactly(late)
        assert (status, json.loads(told)["error"]["code"]) == (503, "queen_stopping")
        assert int(headers["retry-after"]) > 0
        rest = b"".join(iter(lambda: running.recv(65536), b""))
    assert b"data: [DONE]" in rest
    assert own_queen.process.wait(30) == 0
    assert "Traceback" not in own_queen.log


def test_http_is_off_when_told_and_readiness_says_what_is_missing(tmp_path):
    with running_queen(tmp_path / "off", "--http", "off", hive=False) as off, pytest.raises(ConnectionRefusedError):
        connected(off)
    with running_queen(tmp_path / "lonely", hive=False) as lonely:
        status, _, body = asked(lonely, path="/readyz", method="GET", headers={"content-length": None})
        assert (status, json.loads(body)["faults"]) == (503, ["no hive is online; start one with: rbee up"])
        assert asked(lonely, path="/healthz", method="GET")[0] == 200
        assert asked(lonely, body=CHAT)[0] == 503
        taken = running_queen(tmp_path / "second", hive=False, RBEE_QUEEN_HTTP=lonely.http)
        with pytest.raises(AssertionError, match="--http off"), taken:
            pass
