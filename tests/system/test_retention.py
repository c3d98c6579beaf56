"""Finished jobs are forgotten when their time is over."""

import json

from programs import rbee, running_queen, wait_for


def test_a_finished_job_is_forgotten_after_its_time(tmp_path):
    with running_queen(tmp_path, "--keep-jobs", "1500ms") as queen:
        assert rbee(queen, "infer", "What is a hive?", "--model", "rbee-tiny", "--max-tokens", "2").returncode == 0

        def listed():
            return json.loads(rbee(queen, "jobs", "list", "--json").stdout)

        wait_for(lambda: not listed(), "the job is purged")
        assert "due are purged: 1" in queen.log
