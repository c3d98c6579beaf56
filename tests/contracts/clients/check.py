"""Compiles clients of the contract, generated from proto/, in Go and TypeScript: check.py [go] [typescript].

Generated code goes to a temporary directory. Packages are pinned by the lock files beside this script and cached: Go's
by Go itself, the others in `cache_dir()`; with both filled it needs no network. Exits 77 when a toolchain is missing.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

CLIENTS: Final = Path(__file__).resolve().parent
ROOT: Final = CLIENTS.parents[2]
GRPCURL: Final = "v1.9.3"
SKIPPED: Final = 77
"""Exit status by which build tools know a check that could not be made."""
# The same for every Go step, so that each compiles only what no other has. Trimmed paths let the temporary directory's
# name stay out of the cache's keys; without cgo no C compiler is needed.
GO_ENVIRONMENT: Final = {"GOFLAGS": "-trimpath -buildvcs=false", "CGO_ENABLED": "0"}


class Missing(Exception):
    """A toolchain is not installed, or is too old; says how to get it."""


class Failed(Exception):
    """A step of a check failed; carries the command and what it said."""


def main(languages: list[str]) -> int:
    checks = {"go": check_go, "typescript": check_typescript}
    for language in languages or checks:
        with tempfile.TemporaryDirectory(prefix="rbee-contract-") as folder:
            try:
                checks[language](Path(folder))
            except Missing as problem:
                print(f"{language}: skipped: {problem}", file=sys.stderr)  # noqa: T201  # a script talks to its caller
                return SKIPPED
            except Failed as problem:
                print(f"{language}: {problem}", file=sys.stderr)  # noqa: T201  # a script talks to its caller
                return 1
        print(f"{language}: the generated client compiles")  # noqa: T201  # a script talks to its caller
    return 0


def check_go(folder: Path) -> None:
    """Generates the Go client into `folder` and compiles it with a program that streams an answer."""
    require_go()
    shutil.copytree(CLIENTS / "go", folder, dirs_exist_ok=True)
    generate(folder, GO_ENVIRONMENT)
    run("go", "build", "./...", cwd=folder, environment=GO_ENVIRONMENT)
    run("go", "vet", "./...", cwd=folder, environment=GO_ENVIRONMENT)


def check_typescript(folder: Path) -> None:
    """Generates the TypeScript client into `folder` and compiles it with a program that streams an answer."""
    shutil.copytree(CLIENTS / "typescript", folder, dirs_exist_ok=True)
    (folder / "node_modules").symlink_to(node_modules(CLIENTS / "typescript"))
    generate(folder, {})
    run("node", "node_modules/typescript/bin/tsc", cwd=folder)


def grpcurl() -> Path:
    """Returns a grpcurl: the one on PATH, or else one built with Go and cached. Raises `Missing` without either."""
    if found := shutil.which("grpcurl"):
        return Path(found)
    built = cache_dir() / f"grpcurl-{GRPCURL}" / "grpcurl"
    if not built.exists():
        require_go()
        package = f"github.com/fullstorydev/grpcurl/cmd/grpcurl@{GRPCURL}"
        run("go", "install", package, environment=GO_ENVIRONMENT | {"GOBIN": str(built.parent)})
    return built


def node_modules(locked: Path) -> Path:
    """Returns the folder of a folder's locked packages, installed once per lock file."""
    require("node", "--version", (20, 0), "apt-get install nodejs npm (20 or newer)")
    require("npm", "--version", (9, 0), "apt-get install npm")
    lock = (locked / "package-lock.json").read_bytes()
    installed = cache_dir() / f"node-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not installed.exists():
        installed.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=installed.parent) as folder:
            package = Path(folder) / "package"
            package.mkdir()
            for name in ("package.json", "package-lock.json", ".npmrc"):
                shutil.copy(locked / name, package)
            run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=package)
            # A rename is all or nothing: an interrupted install is never taken for a whole one.
            package.rename(installed)
    return installed / "node_modules"


def cache_dir() -> Path:
    """Returns where tools and packages outlive a run: XDG_CACHE_HOME/rbee-contract, by default in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rbee-contract"


def generate(folder: Path, environment: Mapping[str, str]) -> None:
    """Runs the plugins named in `folder`/buf.gen.yaml over proto/, with buf from this interpreter's folder or PATH."""
    beside = str(Path(sys.executable).parent)
    buf = shutil.which("buf", path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if buf is None:
        raise Missing("there is no buf; install it with: make setup")
    run(buf, "generate", str(ROOT), "--template", "buf.gen.yaml", cwd=folder, environment=environment)


def require_go() -> None:
    # From 1.21 on, Go fetches the newer toolchain that a module asks for.
    require("go", "version", (1, 21), "apt-get install golang (1.21 or newer)")


def require(command: str, version_flag: str, least: tuple[int, int], how: str) -> None:
    """Raises `Missing` unless a command is there in at least the version (major, minor)."""
    if shutil.which(command) is None:
        raise Missing(f"there is no {command}; install it with: {how}")
    said = run(command, version_flag)
    found = re.search(r"(\d+)\.(\d+)", said)
    if found is None or (int(found[1]), int(found[2])) < least:
        raise Missing(f"{command} is too old ({said.strip()}); install it with: {how}")


def run(*command: str, cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Runs a command and returns its output; raises `Failed` with all it said."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Failed(f"'{' '.join(command)}' ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
