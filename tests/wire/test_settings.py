import argparse
import os

import pytest

from wire import errors
from wire.settings import Key, address, one_of, path, read_settings, seconds, seconds_or_none, seconds_or_zero, switch

KEYS = (
    Key("listen", "T_LISTEN", address, "127.0.0.1:1", "where"),
    Key("format", "T_FORMAT", one_of("text", "json"), "text", "how"),
    Key("config", "T_CONFIG", str, "", "file"),
    Key("quick", "T_QUICK", switch, "0", "quick", flag=True),
    Key("folder", "T_FOLDER", path, "", "folders", repeated=os.pathsep),
)


def read(*arguments, **environment):
    return read_settings(KEYS, argparse.ArgumentParser(), arguments, environment)


def test_defaults_hold_when_nothing_is_said():
    assert read() == {"listen": "127.0.0.1:1", "format": "text", "config": "", "quick": False, "folder": ()}


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path):
    file = tmp_path / "queen.toml"
    file.write_text('listen = "h:1"\nformat = "json"\nquick = true\nfolder = ["/a", "/b"]\n')
    assert read("--config", str(file))["listen"] == "h:1"
    assert read(T_CONFIG=str(file), T_LISTEN="h:2")["listen"] == "h:2"
    found = read("--listen", "h:3", "--quick", T_CONFIG=str(file), T_LISTEN="h:2")
    assert found["listen"] == "h:3"
    assert found["format"] == "json"
    assert [str(folder) for folder in found["folder"]] == ["/a", "/b"]


def test_several_values_come_from_flags_or_from_one_variable():
    assert [str(one) for one in read("--folder", "/a", "--folder", "/b")["folder"]] == ["/a", "/b"]
    assert [str(one) for one in read(T_FOLDER=f"/c{os.pathsep}/d")["folder"]] == ["/c", "/d"]


def test_all_bad_settings_are_told_at_once_with_where_they_came_from(tmp_path):
    file = tmp_path / "queen.toml"
    file.write_text('colour = "red"\nquick = "maybe"\n')
    with pytest.raises(errors.Invalid) as caught:
        read("--listen", "nowhere", "--config", str(file), T_FORMAT="xml")
    assert {fault.field for fault in caught.value.faults} == {
        "colour",
        "--listen",
        "T_FORMAT",
        "quick in the configuration file",
    }


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(errors.Invalid, match="missing"):
        read("--config", str(tmp_path / "missing.toml"))


def test_times_are_read_in_seconds_and_0_is_none():
    texts = ("500ms", "90", "1.5s", "30m", "12h", "7d", "0", "0d")
    assert [seconds_or_zero(text) for text in texts] == [0.5, 90, 1.5, 1800, 43200, 604800, 0, 0]
    for wrong in ("", "7 days", "-1d", "1w", "d"):
        with pytest.raises(ValueError, match="a time such as 30m"):
            seconds_or_zero(wrong)


def test_a_name_like_another_is_told_with_it(tmp_path):
    file = tmp_path / "queen.toml"
    file.write_text('lissten = "h:1"\n')
    with pytest.raises(errors.Invalid, match="lissten: no such setting; listen is meant"):
        read("--config", str(file))


@pytest.mark.parametrize(
    ("text", "expected"), [("500ms", 0.5), ("1s", 1.0), ("2", 2.0), ("1.5m", 90.0), ("2h", 7200.0), (" 3s ", 3.0)]
)
def test_times_are_read_in_seconds(text, expected):
    assert seconds(text) == expected
    assert seconds_or_none(text) == expected


@pytest.mark.parametrize("text", ["", "0", "0ms", "-1s", "1 day", "soon", "1e3", "inf"])
def test_what_is_no_time_is_told(text):
    with pytest.raises(ValueError, match="a time above 0, such as"):
        seconds(text)


def test_no_time_may_be_said_where_none_is_allowed():
    assert seconds_or_none("") is None
