"""The queen's limits, from flags, variables and her file."""

import pytest

from queen import config
from queen.core.limits import Wanted
from queen.core.model import StageLimits
from wire import errors


def from_file(folder, text, *arguments, **environment):
    file = folder / "queen.toml"
    file.write_text(text)
    return config.read(["--config", str(file), *arguments], environment)


def test_limits_have_their_defaults():
    rules = config.read([], {}).limits
    assert rules.default == StageLimits(300.0, None, 300.0, None, 60.0)
    assert (rules.most_s, rules.models) == (1800.0, {})


def test_limits_are_set_by_flag_variable_and_file(tmp_path):
    rules = from_file(
        tmp_path, 'job_timeout = "10m"\nstart_timeout = 20\n', "--stall-timeout", "500ms", RBEE_QUEUE_TIMEOUT="5s"
    ).limits
    assert rules.default == StageLimits(600.0, 5.0, 20.0, None, 0.5)


def test_a_model_has_limits_of_its_own_by_name_and_by_reference(tmp_path):
    rules = from_file(
        tmp_path,
        '[models."Big-Model.gguf".timeouts]\nstart = "20m"\nfirst_token = 90\n'
        '[models."file:/a/Small.gguf".timeouts]\ntotal = "20s"\nqueue = "5s"\nstall = "2s"\n'
        "[models.plain]\n",
    ).limits
    big = Wanted(start_s=1200.0, first_token_s=90.0)
    assert rules.of_model("file:/x/big-model.gguf", "big-model") == big
    assert rules.of_model("file:/x/big-model.gguf", "BIG-MODEL") == big
    assert rules.of_model("file:/a/Small.gguf", "big-model") == Wanted(20.0, 5.0, None, None, 2.0), "a reference first"
    assert rules.of_model("file:/a/plain.gguf", "plain") == rules.of_model("file:/a/none.gguf", "none") == Wanted()


def test_every_bad_word_of_the_file_is_told_at_once_with_the_nearest(tmp_path):
    with pytest.raises(errors.Invalid) as caught:
        from_file(
            tmp_path,
            'job_timout = "1s"\nstall_timeout = "soon"\n'
            '[models.a.timeout]\ntotal = "1s"\n'
            '[models.b.timeouts]\nfirst_tokens = "1s"\nqueue = "0s"\nstart = true\n'
            "[models.c]\ntimeouts = 5\n"
            "[models]\nd = 3\n",
        )
    assert {fault.field: fault.expected for fault in caught.value.faults} == {
        "job_timout": "no such setting; job_timeout is meant?",
        "stall_timeout in the configuration file": "a time above 0, such as 500ms, 1s or 10m, not 'soon'",
        'models."a".timeout': "no such setting; timeouts is meant?",
        'models."b".timeouts.first_tokens': "no such setting; first_token is meant?",
        'models."b".timeouts.queue': "a time above 0, such as 500ms, 1s or 10m, not '0s'",
        'models."b".timeouts.start': "a time above 0, such as 500ms, 1s or 10m, not 'True'",
        'models."c".timeouts': "a table, not '5'",
        'models."d"': "a table, not '3'",
    }


def test_models_that_are_no_table_are_told(tmp_path):
    with pytest.raises(errors.Invalid, match="models: a table, not '5'"):
        from_file(tmp_path, "models = 5\n")


def test_policies_have_settings_of_their_own(tmp_path):
    said = from_file(tmp_path, '[policy_config]\nreplicas = 2\npatience_ms = 1.5\nnight = true\nregion = "eu"\n')
    assert said.policy_config == {"replicas": 2, "patience_ms": 1.5, "night": True, "region": "eu"}
    assert config.read([], {}).policy_config == {}
    with pytest.raises(errors.Invalid) as caught:
        from_file(tmp_path, "[policy_config]\nreplicas = [2]\n")
    assert [fault.field for fault in caught.value.faults] == ["policy_config.replicas"]
    with pytest.raises(errors.Invalid, match="policy_config: a table, not '5'"):
        from_file(tmp_path, "policy_config = 5\n")
