"""The published document holds: schemathesis asks what it allows and what it does not, over real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

from programs import rbee as keeper
from programs import slots_taken, wait_for

FOLDER = Path(__file__).parent / "schemathesis"
LEFT_OUT = "positive_data_acceptance"  # what an engine cannot do is refused, however well it is said
MODEL = "synthetic:document"


def test_what_is_asked_is_answered_as_the_document_says(web, tmp_path):
    options = ("--engine", "synthetic", "--slots", "4", "--engine-option", "completion_tokens=3")
    assert keeper(web, "worker", "spawn", MODEL, *options, "--engine-option", "tokens_per_second=0").returncode == 0
    url = f"http://{web.http}/openapi.json"
    with urlopen(url) as answer:
        assert json.load(answer)["openapi"] == "3.1.0"
    said = subprocess.run(
        [
            Path(sys.executable).parent / "schemathesis",
            *("run", url, "--exclude-checks", LEFT_OUT, "--max-examples", "10", "--seed", "1"),
            *("--phases", "coverage,fuzzing", "--request-timeout", "20", "--no-color"),
        ],
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(FOLDER)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert said.returncode == 0, said.stdout[-8000:] + said.stderr
    wait_for(lambda: slots_taken(web) == 0, "all slots are free")
    assert "Traceback" not in web.log
