import grpc
import pytest

from rbee.v1 import job_service_pb2, job_service_pb2_grpc
from wire import channel, errors, status
from wire.server import Server

SERVICE = job_service_pb2.DESCRIPTOR.services_by_name["JobService"]


class Failing(job_service_pb2_grpc.JobServiceServicer):
    """Raises whatever it was given."""

    def __init__(self, error):
        self.error = error

    async def Get(self, request, context):
        raise self.error


@pytest.fixture
async def call():
    """Returns a function that makes a real server raise an error and gives back what the caller sees."""
    servers = []

    async def failing_call(error):
        server = Server("test")
        server.add(SERVICE, Failing(error))
        port = await server.start("127.0.0.1:0")
        servers.append(server)
        async with channel.dial(f"127.0.0.1:{port}") as dialled:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await job_service_pb2_grpc.JobServiceStub(dialled).Get(job_service_pb2.JobServiceGetRequest())
        return status.from_rpc_error(caught.value)

    yield failing_call
    for server in servers:
        await server.stop(0)


@pytest.mark.parametrize("cls", list(status.CODES))
async def test_every_class_of_the_taxonomy_survives_the_wire(call, cls):
    sent = cls("what happened", "SOME_REASON", metadata={"job_id": "j"}, retry_after_s=1.5)
    got = await call(sent)
    assert type(got) is cls
    assert (got.message, got.reason, got.metadata, got.retry_after_s) == (
        "what happened",
        "SOME_REASON",
        {"job_id": "j"},
        1.5,
    )


async def test_all_bad_fields_survive_the_wire(call):
    faults = (errors.FieldFault("a", "1 to 2"), errors.FieldFault("b", "a name"))
    got = await call(errors.invalid(faults, "job"))
    assert got.faults == faults
    assert "2 bad fields: a: 1 to 2; b: a name" in got.message


async def test_errors_of_any_length_survive_the_wire(call):
    faults = [errors.FieldFault(f"job.labels[{'ä' * 60}]", "größer als nötig " * 30) for _ in range(200)]
    got = await call(errors.Invalid("ü" * 50_000 + "why", "LONG", faults=faults))
    assert type(got) is errors.Invalid
    assert got.reason == "LONG"
    assert got.message.endswith("why")
    assert 1 < len(got.faults) < len(faults)


async def test_what_nobody_foresaw_is_internal_and_tells_no_secrets(call, caplog):
    got = await call(ZeroDivisionError("a prompt might be in here"))
    assert type(got) is errors.Internal
    assert "secret" not in got.message
    assert "a prompt" not in got.message
    assert "JobService.Get failed" in caplog.text


async def test_an_rpc_whose_time_has_not_come_says_what_it_will_do(call):
    server = Server("test")
    server.add(SERVICE, job_service_pb2_grpc.JobServiceServicer())
    port = await server.start("127.0.0.1:0")
    async with channel.dial(f"127.0.0.1:{port}") as dialled:
        stub = job_service_pb2_grpc.JobServiceStub(dialled)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Explain(job_service_pb2.JobServiceExplainRequest())
    await server.stop(0)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "Tells in words why a job ran where and when it did" in caught.value.details()


async def test_a_port_in_use_is_named(call):
    first = Server("test")
    port = await first.start("127.0.0.1:0")
    with pytest.raises(errors.WrongState, match=f"port {port}: it is in use") as caught:
        await Server("other").start(f"127.0.0.1:{port}")
    assert caught.value.reason == "PORT_IN_USE"
    await first.stop(0)


def test_the_table_is_one_to_one():
    assert len(set(status.CODES.values())) == len(status.CODES)


def test_a_subclass_has_its_kinds_code():
    class Special(errors.Unreachable):
        """A kind of it."""

    assert status.code_of(Special("x")) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "host:x", "host:70000", "host:-1", "host:１"])
def test_what_is_not_an_address_is_refused(text):
    with pytest.raises(errors.Invalid, match="not an address"):
        channel.split_address(text)


def test_addresses_are_read():
    assert channel.split_address("127.0.0.1:7833") == ("127.0.0.1", 7833)
    assert channel.split_address("[::1]:0") == ("::1", 0)
