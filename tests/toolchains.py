"""Toolchains of other languages: builds the programs in examples/, and gets tools and packages for other tests.

Generated code goes to the folder given. Packages are pinned by the lock files of each program and cached: Go's and
Maven's by these themselves, the others in `cache_dir()`; with all filled no network is needed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
EXAMPLES: Final = ROOT / "examples"
GRPCURL: Final = "v1.9.3"
# The same for every Go step, so that each compiles only what no other has. Trimmed paths let the temporary directory's
# name stay out of the cache's keys; without cgo no C compiler is needed.
GO_ENVIRONMENT: Final = {"GOFLAGS": "-trimpath -buildvcs=false", "CGO_ENABLED": "0"}
# Programs that live for seconds are not worth Java's better compiler.
JAVA_OPTIONS: Final = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]


@dataclass(frozen=True)
class Built:
    """A program that can be run: its command, and what its environment needs."""

    command: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)


class Missing(Exception):
    """A toolchain is not installed, or is too old; says how to get it."""


class Failed(Exception):
    """A step of a check failed; carries the command and what it said."""


def build_python(folder: Path) -> Built:
    """Generates the Python program's stubs; it runs without what is installed from this checkout."""
    shutil.copytree(EXAMPLES / "python", folder, dirs_exist_ok=True)
    (folder / "gen").mkdir()
    sources = [str(path) for path in (ROOT / "proto" / "rbee" / "v1").glob("*.proto")]
    options = [f"-I{ROOT / 'proto'}", "--python_out=gen", "--grpc_python_out=gen"]
    run(sys.executable, "-m", "grpc_tools.protoc", *options, *sources, cwd=folder)
    # Without `site` the links of editable installs are not followed.
    paths = os.pathsep.join([str(folder / "gen"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    return Built([sys.executable, "-S", str(folder / "main.py")], {"PYTHONPATH": paths})


def build_go(folder: Path) -> Built:
    """Generates the Go program's stubs and compiles and vets it."""
    require_go()
    shutil.copytree(EXAMPLES / "go", folder, dirs_exist_ok=True)
    generate(folder, ROOT, GO_ENVIRONMENT)
    run("go", "build", "-o", "example", ".", cwd=folder, environment=GO_ENVIRONMENT)
    run("go", "vet", "./...", cwd=folder, environment=GO_ENVIRONMENT)
    return Built([str(folder / "example")])


def build_typescript(folder: Path) -> Built:
    """Generates the TypeScript program's stubs and compiles it, strictly checked."""
    shutil.copytree(EXAMPLES / "typescript", folder, dirs_exist_ok=True)
    (folder / "node_modules").symlink_to(node_modules(EXAMPLES / "typescript"))
    generate(folder, ROOT)
    generate(folder, folder / "proto")
    run("node", "node_modules/typescript/bin/tsc", cwd=folder)
    return Built(["node", str(folder / "dist" / "main.js")])


def build_java(folder: Path) -> Built:
    """Generates the Java program's stubs and compiles it."""
    require("javac", "-version", (17, 0), "apt-get install default-jdk-headless (17 or newer)")
    require("mvn", "--version", (3, 6), "apt-get install maven")
    shutil.copytree(EXAMPLES / "java", folder, dirs_exist_ok=True)
    environment = {"MAVEN_OPTS": " ".join(JAVA_OPTIONS)}
    run(
        "mvn", "--quiet", "--batch-mode", "compile", f"-Dcontract={ROOT / 'proto'}", cwd=folder, environment=environment
    )
    classes = os.pathsep.join([str(folder / "target" / "classes"), str(folder / "target" / "lib" / "*")])
    return Built(["java", *JAVA_OPTIONS, "-cp", classes, "dev.rbee.examples.Main"])


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


def generate(folder: Path, contract: Path, environment: Mapping[str, str] | None = None) -> None:
    """Runs the plugins named in `folder`/buf.gen.yaml over a contract; buf is beside this Python or on PATH."""
    beside = str(Path(sys.executable).parent)
    buf = shutil.which("buf", path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if buf is None:
        raise Missing("there is no buf; install it with: make setup")
    run(buf, "generate", str(contract), "--template", "buf.gen.yaml", cwd=folder, environment=environment)


def require_go() -> None:
    # From 1.21 on, Go fetches the newer toolchain that a module asks for.
    require("go", "version", (1, 21), "apt-get install golang (1.21 or newer)")


def require(command: str, version_flag: str, least: tuple[int, int], how: str) -> None:
    """Raises `Missing` unless a command is there in at least the version (major, minor)."""
    if shutil.which(command) is None:
        raise Missing(f"there is no {command}; install it with: {how}")
    said = run(command, version_flag)
    found = re.search(r"(\d+)\.(\d+)", said) or re.search(r"(\d+)()", said)
    if found is None or (int(found[1]), int(found[2] or 0)) < least:
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
