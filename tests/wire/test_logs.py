"""A log line is one line, and says which job and which trace it is about."""

import io
import json
import logging

import pytest

from wire import logs, telemetry

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def written():
    """Sends all logs to a text until the test ends; call it with the format."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = list(root.handlers), root.level

    def start(log_format):
        logs.setup("test", log_format, "info", stream)
        return stream

    yield start
    root.handlers[:] = handlers
    root.setLevel(level)


def test_for_machines_it_is_a_json_object_with_what_it_is_about(written):
    stream = written("json")
    log = logging.getLogger("queen.some.room")
    log.info("attempt %d failed", 1, extra={"job_id": "job-1", "trace_id": TRACE})
    with telemetry.joined({"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}):
        log.warning("two\nlines", extra={"job_id": "job-2", "worker_id": "mill-1"})
    log.error("about nothing")
    first, second, third = map(json.loads, stream.getvalue().splitlines())
    assert (first["job_id"], first["trace_id"], first["message"]) == ("job-1", TRACE, "attempt 1 failed")
    assert (first["level"], first["program"], first["logger"]) == ("INFO", "test", "queen.some.room")
    assert (second["job_id"], second["trace_id"], second["worker_id"]) == ("job-2", TRACE, "mill-1")
    assert {"job_id", "trace_id"}.isdisjoint(third)


def test_for_people_it_ends_with_what_it_is_about(written):
    stream = written("text")
    with telemetry.joined({"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}):
        logging.getLogger("x").info("taken over", extra={"job_id": "job-1"})
    (line,) = stream.getvalue().splitlines()
    assert line.endswith(f"INFO    test: taken over job_id=job-1 trace_id={TRACE}")
