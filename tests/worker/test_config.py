"""Settings: where they come from, which wins, and what is said about bad ones."""

from pathlib import Path

import pytest

from wire import errors
from worker import config


def test_without_a_word_it_has_the_documented_defaults():
    told = config.read([], {"RBEE_WORKER_MODEL": "/models/a.gguf"})
    assert told.model == Path("/models/a.gguf")
    assert told.model_ref == "file:/models/a.gguf"
    assert (told.engine, told.port, told.listen_host) == ("llamacpp", None, "127.0.0.1")
    assert (told.slots, told.context_length, told.devices, told.engine_options) == (4, 0, (), {})
    assert (told.hive, told.token, told.log_format, told.log_level) == ("", "", "text", "info")


def test_a_flag_wins_over_a_variable():
    environment = {
        "RBEE_WORKER_SLOTS": "7",
        "RBEE_WORKER_CONTEXT_LENGTH": "512",
        "RBEE_WORKER_DEVICE": "gpu0,gpu1",
        "RBEE_WORKER_ENGINE_OPTION": "a=1,b=2",
        "RBEE_SPAWN_TOKEN": "secret",
    }
    told = config.read(["--engine", "synthetic", "--slots", "3", "--device", "gpu2", "--device", "gpu3"], environment)
    assert (told.slots, told.context_length, told.token) == (3, 512, "secret")
    assert told.devices == ("gpu2", "gpu3")
    assert told.engine_options == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("argv", "field"),
    [
        ([], "--model"),
        (["--engine", "synthetic", "--slots", "0"], "--slots"),
        (["--engine", "synthetic", "--slots", "many"], "--slots"),
        (["--engine", "synthetic", "--port", "70000"], "--port"),
        (["--engine", "synthetic", "--engine-option", "pace"], "--engine-option"),
        (["--engine", "magic"], "--engine"),
        (["--engine", "synthetic", "--hive", "nowhere"], "--hive"),
    ],
)
def test_a_bad_setting_is_named(argv, field):
    with pytest.raises(errors.Invalid) as caught:
        config.read(argv, {})
    assert [fault.field for fault in caught.value.faults] == [field]


def test_a_variable_is_checked_like_a_flag():
    with pytest.raises(errors.Invalid, match="RBEE_WORKER_SLOTS: 1 to 256, not '999'"):
        config.read(["--engine", "synthetic"], {"RBEE_WORKER_SLOTS": "999"})


def test_help_names_every_setting_with_its_variable(capsys):
    with pytest.raises(SystemExit):
        config.read(["--help"], {})
    shown = capsys.readouterr().out
    for key in config.KEYS:
        assert key.option in shown
        assert key.variable in shown
