"""`rbee up` in the foreground, and what is left when things go wrong: a clear word, and nothing running."""

import signal
import socket

import psutil

from .conftest import SLOW, Keeper


def test_up_in_the_foreground_ends_in_order_with_ctrl_c(keeper: Keeper) -> None:
    up = keeper.start("up")
    assert up.stdout is not None
    told = [up.stdout.readline() for _ in range(4)]
    assert told[0].startswith(f"queen  serves at {keeper.address}")
    assert told[3] == "Ctrl+C stops everything\n"
    assert len(keeper.processes()) >= 2
    up.send_signal(signal.SIGINT)
    _, err = up.communicate(timeout=30)
    assert up.returncode == 0
    assert "queen-rbee: stopped" in err
    assert keeper.processes() == []
    assert keeper.ok("down") == "nothing to stop\n"


def test_a_queen_killed_while_streaming(keeper: Keeper) -> None:
    keeper.ok("up", "--detach")
    keeper.spawn_slow(tokens=100)
    asking = keeper.start("infer", "go on", "--model", SLOW, "--reattach", "0.3")
    assert asking.stdout is not None
    begun = asking.stdout.read(14)
    psutil.Process(int((keeper.data_dir / "queen.pid").read_text())).kill()
    rest, err = asking.communicate(timeout=15)
    assert asking.returncode == 4
    assert begun == "synthetic tok1"
    assert rest.endswith("\n")
    error = err.splitlines()[-1]
    assert error.startswith("error: the queen went away while job ")
    assert "rbee jobs watch" in error
    # Her hive has outlived her; `down` ends that too.
    assert keeper.processes() != []
    assert keeper.ok("down") == "stopped\n"
    assert keeper.processes() == []


def test_a_port_in_use_is_told_with_the_queens_own_words(keeper: Keeper) -> None:
    host, _, port = keeper.address.rpartition(":")
    with socket.create_server((host, int(port))):
        result = keeper.run("up", "--detach")
        assert result.returncode == 1
        assert "is in use" in result.stderr
        assert "Traceback" not in result.stderr
        assert keeper.processes() == []
    assert not (keeper.data_dir / "queen.pid").exists()


def test_a_data_directory_that_cannot_be_written(keeper: Keeper) -> None:
    blocker = keeper.data_dir / "file"
    blocker.touch()
    result = keeper.run("up", "--detach", "--data-dir", str(blocker / "below"))
    assert result.returncode == 1
    assert "cannot be written" in result.stderr
    assert "--data-dir" in result.stderr
