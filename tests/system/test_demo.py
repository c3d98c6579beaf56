"""The README's first command, as it is."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]


def test_the_demo_answers_shows_its_decision_and_leaves_nothing():
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    said = subprocess.run(
        ["bash", "demo.sh"], cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=100
    )
    assert said.returncode == 0, said.stdout + said.stderr
    assert "A hive is " in said.stdout
    assert "first token after" in said.stderr
    assert "least loaded, 4 of 4 slots free" in said.stdout
    data_dir = re.search(r"log (\S+)/logs/queen\.log", said.stdout + said.stderr)[1]
    assert not Path(data_dir).exists()
    lines = [" ".join(one.info["cmdline"] or []) for one in psutil.process_iter(["cmdline"])]
    assert not [line for line in lines if data_dir in line]
