"""The programs in examples/ are built from the contract and do what they promise against a running queen."""

import os
import re
import subprocess

import pytest

from programs import skip_or_fail
from toolchains import EXAMPLES, Built, Missing, build_go, build_java, build_python, build_typescript, grpcurl

QUESTION = "What is a hive?"
pytestmark = pytest.mark.timeout(600)  # fetching and compiling gRPC the first time takes minutes on a small machine


def with_grpcurl(folder):
    return Built(["bash", str(EXAMPLES / "grpcurl" / "rbee.sh")], {"GRPCURL": str(grpcurl())})


BUILDS = {
    "python": build_python,
    "go": build_go,
    "typescript": build_typescript,
    "java": build_java,
    "grpcurl": with_grpcurl,
}


@pytest.fixture(scope="module", params=BUILDS)
def program(request, queen, tmp_path_factory):
    """Starts the program with arguments; its environment says where the queen is."""
    try:
        built = BUILDS[request.param](tmp_path_factory.mktemp(request.param))
    except Missing as problem:
        skip_or_fail(problem)
    at = {"RBEE_QUEEN": queen.address, "RBEE_QUEEN_HTTP": queen.http}

    def start(*arguments, **environment):
        return subprocess.Popen(
            [*built.command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **built.environment, **at, **environment},
        )

    start.speaks_json = request.param == "grpcurl"
    return start


def said(process):
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_an_answer_streams(program):
    status, out, err = said(program("infer", "rbee-tiny", QUESTION))
    assert status == 0, err
    assert "A hive is " in ("".join(re.findall(r'"text": "([^"]*)"', out)) if program.speaks_json else out)


def test_hives_are_listed(program):
    status, out, err = said(program("hives"))
    assert status == 0, err
    if program.speaks_json:
        assert '"id": "mill"' in out
        assert "HIVE_STATE_HEALTHY" in out
    else:
        assert re.fullmatch(r"mill HEALTHY \d+ devices \d+ models\n", out)


def test_the_cluster_is_watched(program):
    process = program("watch")
    line = process.stdout.readline()
    if program.speaks_json:
        while '"id": "mill"' not in line:
            line = process.stdout.readline()
            assert line, process.stderr.read()
    else:
        assert re.fullmatch(r"1 hives, \d+ workers, \d+ waiting, \d+\.\d tokens/s\n", line), process.stderr.read()
    assert process.poll() is None, "it goes on"
    process.terminate()
    process.communicate(timeout=30)


def test_an_error_is_shown_with_its_reason(program):
    status, out, err = said(program("infer", "nothing", QUESTION))
    assert (status == 0, out) == (False, "")
    assert "MODEL_NOT_FOUND" in err


def test_where_the_queen_is_may_be_said(program, queen, request):
    over_http = "typescript" in request.node.name
    nowhere = {"RBEE_QUEEN": "127.0.0.1:1", "RBEE_QUEEN_HTTP": "127.0.0.1:1"}
    assert said(program("hives", **nowhere))[0] != 0
    address = queen.http if over_http else queen.address
    status, out, err = said(program("--queen", address, "hives", **nowhere))
    assert (status, "mill" in out) == (0, True), err
