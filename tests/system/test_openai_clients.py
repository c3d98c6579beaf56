"""Other people's clients against a queen: OpenAI's JavaScript one, and litellm."""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from programs import skip_or_fail
from toolchains import Failed, Missing, cache_dir, node_modules, run

FOLDER = Path(__file__).parent
LITELLM = FOLDER / "litellm" / "requirements.txt"


def answered(*command, cwd=None):
    """Returns what a program printed last, a JSON object."""
    said = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=cwd, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    return json.loads(said.stdout.splitlines()[-1])


@pytest.mark.timeout(300)  # the first time packages are fetched
def test_openais_javascript_client(web, tmp_path):
    try:
        (tmp_path / "node_modules").symlink_to(node_modules(FOLDER / "javascript"))
    except Missing as problem:
        skip_or_fail(problem)
    shutil.copy(FOLDER / "javascript" / "client.mjs", tmp_path)
    told = answered("node", "client.mjs", f"http://{web.http}/v1", cwd=tmp_path)
    assert {"rbee-tiny", "tools"} <= set(told["models"])
    assert told["whole"].startswith("A hive is ")
    assert told["streamed"] == told["whole"]
    assert told["usage"]["completion_tokens"] > 0
    assert told["worker"].startswith("mill-")
    assert told["call"]["name"] == "count"
    assert json.loads("{" + told["call"]["arguments"]) == {"of": "bees"}
    assert told["text"] == 5
    assert told["failures"] == [
        ["NotFoundError", 404, "model_not_found", "model"],
        ["BadRequestError", 400, "invalid_value", "temperature"],
        ["BadRequestError", 400, "invalid_value", "tools"],
    ]


@pytest.fixture(scope="module")
def litellm():
    """A Python with litellm, made once: it wants another OpenAI client than ours, and has much besides."""
    digest = hashlib.sha256(LITELLM.read_bytes() + sys.version.encode()).hexdigest()[:16]
    made = cache_dir() / f"litellm-{digest}"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=made.parent))
        try:
            run(sys.executable, "-m", "venv", str(folder))
            run(str(folder / "bin" / "pip"), "install", "-q", "-r", str(LITELLM))
        except Failed as problem:
            shutil.rmtree(folder)
            skip_or_fail(f"litellm cannot be installed; a package index is needed once: {problem}")
        folder.rename(made)  # its python is found by its place in it, its scripts are not used
    return made / "bin" / "python"


@pytest.mark.timeout(300)  # the first time packages are fetched
def test_litellm(web, litellm):
    told = answered(litellm, FOLDER / "litellm" / "client.py", f"http://{web.http}/v1")
    assert told["whole"].startswith("A hive is ")
    assert told["streamed"] == told["whole"]
    assert told["usage"] > 0
    assert told["call"] == "count"
    assert told["failures"] == ["NotFoundError", "BadRequestError", "ContextWindowExceededError"]
