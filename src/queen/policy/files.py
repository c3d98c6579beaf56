"""Policies in files: the one a queen is started with, and the directory whose files become versions as they change."""

from __future__ import annotations

import asyncio
import logging
import re
from pathlib import Path
from typing import Final

import watchfiles

from queen.policy import check
from queen.policy.failure import Source
from queen.policy.versions import Policies
from wire import errors

log = logging.getLogger(__name__)

SUFFIXES: Final = (".lua", ".yaml", ".yml")
AUTHOR: Final = "policy directory"


async def read_checked(file: Path) -> Source:
    """Returns the policy in a file, Lua or YAML, once it has passed the checks that a saved one has to.

    Raises `Invalid` POLICY_INVALID with all that is wrong by file and line, and POLICY_UNREADABLE.
    """
    try:
        text = await asyncio.to_thread(file.read_text, "utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise errors.Invalid(f"the policy {file} cannot be read: {why}", "POLICY_UNREADABLE") from error
    if faults := check.size_faults(**{str(file): text}):
        raise errors.invalid(faults, "policy")
    checked = await check.check(text, file.name)
    if not checked.valid:
        raise check.refused(checked.problems, file.name, one_line=False)
    return Source(file.name, checked.compiled_lua)


class PolicyFiles:
    """Watches a directory; made if it is not there. `faults` has why a file is not used as it is, by its name."""

    def __init__(self, folder: Path, policies: Policies) -> None:
        self._folder = folder
        self._policies = policies
        self.faults: dict[str, str] = {}

    async def run(self) -> None:
        """Takes in what changes until cancelled; first what changed while nobody watched."""
        try:
            await asyncio.to_thread(self._folder.mkdir, parents=True, exist_ok=True)
            async with asyncio.TaskGroup() as group:
                changed: asyncio.Queue[Path] = asyncio.Queue()
                group.create_task(self._watch(changed), name="policy directory")
                await asyncio.sleep(0)  # the watch begins with the task's first step: nothing is missed after this
                for file in await asyncio.to_thread(self._policies_there):
                    await self._take(file, again=False)
                while True:
                    await self._take(await changed.get())
        except OSError as error:
            log.error("the policy directory %s is not watched: %s", self._folder, error)

    def _policies_there(self) -> list[Path]:
        return sorted(file for file in self._folder.iterdir() if _is_policy(file))

    async def _watch(self, changed: asyncio.Queue[Path]) -> None:
        async for changes in watchfiles.awatch(self._folder, recursive=False, step=20, debounce=100):
            for file in sorted({Path(path) for _, path in changes}):
                if _is_policy(file):
                    changed.put_nowait(file)

    async def _take(self, file: Path, *, again: bool = True) -> None:
        """Saves a file as a version and, when its policy is active, activates it; a bad one changes nothing.

        `again` False: it counts as saved only if its text is new.
        """
        name = policy_name(file)
        try:
            source = await asyncio.to_thread(file.read_text, "utf-8")
        except FileNotFoundError:
            self.faults.pop(file.name, None)  # its versions stay
            return
        except (OSError, UnicodeDecodeError) as error:
            self._refuse(file, f"it cannot be read: {error}")
            return
        try:
            saved = await self._policies.save(name=name, source=source, author=AUTHOR, file_name=file.name, again=again)
            charge = self._policies.charge
            if charge.name == name and charge.version != saved.version:
                await self._policies.activate(name, saved.version)
        except errors.RbeeError as error:
            self._refuse(file, error.message)
        else:
            self.faults.pop(file.name, None)

    def _refuse(self, file: Path, why: str) -> None:
        if self.faults.get(file.name) != why:
            log.error("policy file %s is not used, the version before stays: %s", file, why)
        self.faults[file.name] = why


def policy_name(file: Path) -> str:
    """Returns the name of the policy in a file: the file's, in lower-case letters, digits and -."""
    return re.sub(r"[^a-z0-9]+", "-", file.stem.lower()).strip("-")


def _is_policy(file: Path) -> bool:
    return file.suffix in SUFFIXES and not file.stem.endswith(".cases") and not file.name.startswith(".")
