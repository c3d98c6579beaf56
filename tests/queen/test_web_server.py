"""Connections that dawdle are closed, and an application that breaks answers all the same; in this process."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from queen.web import caller, edge, server
from wire import errors
from wire.channel import split_address


@asynccontextmanager
async def serving(routes):
    http = server.HttpServer()
    address = http.bind("127.0.0.1:0")
    await http.start(edge.Edge(routes, lambda prefix: f"{prefix}-new", ()))
    reader, writer = await asyncio.open_connection(*split_address(address))
    try:
        yield reader, writer
    finally:
        writer.close()
        await http.stop()


async def echo(scope, receive, send):
    await edge.respond_json(send, await caller.read_json(scope, receive, 1000))


async def broken(scope, receive, send):
    raise ZeroDivisionError


async def answer(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length: ")[2].split("\r\n")[0])
    return int(head.split()[1]), head, json.loads(await reader.readexactly(length))


HEAD = b"POST / HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n"


async def test_a_head_that_does_not_come_is_told_and_the_connection_closed(monkeypatch):
    monkeypatch.setattr(server, "HEAD_S", 0.1)
    async with serving(echo) as (reader, writer):
        writer.write(HEAD[:30])
        status, _, body = await answer(reader)
        assert (status, body["error"]["code"]) == (408, "request_timed_out")
        assert await reader.read() == b""


async def test_a_body_that_does_not_come_is_told(monkeypatch):
    monkeypatch.setattr(caller, "BODY_S", 0.1)
    async with serving(echo) as (reader, writer):
        writer.write(HEAD + b"{")
        status, _, body = await answer(reader)
        assert (status, body["error"]["code"]) == (408, "request_timed_out")


async def test_a_connection_without_requests_is_closed_before_and_after_the_first(monkeypatch):
    monkeypatch.setattr(server, "IDLE_S", 0.1)
    async with serving(echo) as (reader, _):
        assert await reader.read() == b""
    async with serving(echo) as (reader, writer):
        writer.write(HEAD + b"{}")
        assert (await answer(reader))[2] == {}
        assert await reader.read() == b""


async def test_an_application_that_breaks_answers_with_500_and_its_log_has_the_request(caplog):
    async with serving(broken) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nx-request-id: mine\r\n\r\n")
        status, head, body = await answer(reader)
        assert (status, body["error"]["code"]) == (500, "internal")
        assert "x-request-id: mine" in head
        assert "mine" in body["error"]["message"]
    assert "ZeroDivisionError" in caplog.text


async def test_a_port_that_is_taken_is_told_with_what_helps():
    first, second = server.HttpServer(), server.HttpServer()
    address = first.bind("127.0.0.1:0")
    await first.start(echo)
    with pytest.raises(errors.WrongState, match=r"--http 127\.0\.0\.1:PORT") as caught:
        second.bind(address)
    assert caught.value.reason == "PORT_IN_USE"
    await second.stop()
    await first.stop()
