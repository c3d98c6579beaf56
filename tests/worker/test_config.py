"""Settings: where they come from, which wins, and that each is documented."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from worker import config


def test_without_a_word_it_has_the_documented_defaults(monkeypatch):
    monkeypatch.setenv("RBEE_WORKER_MODEL", "/models/a.gguf")
    told = config.read([])
    assert told.model == Path("/models/a.gguf")
    assert told.model_ref == "file:/models/a.gguf"
    assert (told.engine, told.port, told.listen_host) == ("llamacpp", None, "127.0.0.1")
    assert (told.slots, told.context_length, told.devices, told.engine_options) == (4, 0, (), {})
    assert (told.hive, told.token, told.log_format, told.log_level) == ("", "", "text", "INFO")


def test_a_flag_wins_over_a_variable(monkeypatch):
    monkeypatch.setenv("RBEE_WORKER_SLOTS", "7")
    monkeypatch.setenv("RBEE_WORKER_CONTEXT_LENGTH", "512")
    monkeypatch.setenv("RBEE_WORKER_DEVICE", "gpu0,gpu1")
    monkeypatch.setenv("RBEE_WORKER_ENGINE_OPTION", "a=1,b=2")
    monkeypatch.setenv("RBEE_SPAWN_TOKEN", "secret")
    told = config.read(["--engine", "synthetic", "--slots", "3", "--device", "gpu2", "--device", "gpu3"])
    assert (told.slots, told.context_length, told.token) == (3, 512, "secret")
    assert told.devices == ("gpu2", "gpu3")
    assert told.engine_options == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ([], "--model is required"),
        (["--engine", "synthetic", "--slots", "0"], "'0' is not a whole number from 1 to 256"),
        (["--engine", "synthetic", "--slots", "many"], "'many' is not a whole number"),
        (["--engine", "synthetic", "--port", "70000"], "'70000' is not a whole number from 0 to 65,535"),
        (["--engine", "synthetic", "--engine-option", "pace"], "'pace' is not NAME=VALUE"),
        (["--engine", "magic"], "invalid choice"),
        (["--engine", "synthetic", "--hive", "nowhere"], "'nowhere' is not an address"),
    ],
)
def test_a_bad_setting_is_named_and_ends_it_with_status_2(argv, complaint, capsys):
    with pytest.raises(SystemExit) as ended:
        config.read(argv)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_variable_is_checked_like_a_flag(monkeypatch, capsys):
    monkeypatch.setenv("RBEE_WORKER_SLOTS", "999")
    with pytest.raises(SystemExit):
        config.read(["--engine", "synthetic"])
    assert "'999' is not a whole number from 1 to 256" in capsys.readouterr().err


def test_help_documents_every_setting_with_its_default_and_variable(capsys):
    with pytest.raises(SystemExit):
        config.read(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for setting in fields(config.Settings):
        name = {"devices": "device", "engine_options": "engine_option"}.get(setting.name, setting.name)
        variable = "RBEE_SPAWN_TOKEN" if name == "token" else f"RBEE_WORKER_{name.upper()}"
        entry = re.search(rf"--{name.replace('_', '-')} .*?\[{variable}[^]]*\]", text)
        assert entry, f"{name} is not documented"
        assert re.search(r"\(?(no )?default", entry[0]), entry[0]
