"""The models in a machine's model directories, kept current by a cheap look at names, times and sizes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from hive.core.model import ModelFile
from hive.models.facts import read_model, shards_of
from wire import errors

_Stamp = tuple[tuple[str, int, int], ...]


class Catalogue:
    """Model files under `folders`, sorted by name. Reading is blocking and runs in threads; headers are read once."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)
        self._read: dict[Path, tuple[_Stamp, ModelFile]] = {}
        self.models: tuple[ModelFile, ...] = ()

    async def refresh(self) -> bool:
        """Looks at the directories; returns whether anything changed."""
        found = await asyncio.to_thread(self._scan)
        changed, self.models = found != self.models, found
        return changed

    async def watch(self, interval_s: float, on_change: Callable[[], None]) -> None:
        """Refreshes for ever, `interval_s` seconds apart, and tells of changes.

        Large directory trees are looked at less often, so that this costs a twentieth of one core at most.
        """
        loop = asyncio.get_running_loop()
        pause_s = interval_s
        while True:
            await asyncio.sleep(pause_s)
            start_s = loop.time()
            if await self.refresh():
                on_change()
            pause_s = max(interval_s, 20 * (loop.time() - start_s))

    async def inspect(self, path: str) -> ModelFile:
        """Returns what the file at an absolute path is, also outside the directories.

        Raises `Invalid` for a path that is not absolute, `NotFound` MODEL_NOT_FOUND where there is no file.
        """
        file = Path(path)
        if not file.is_absolute():
            fault = errors.FieldFault("path", f"an absolute path on the hive's machine, not '{path}'")
            raise errors.invalid([fault])
        if not await asyncio.to_thread(file.is_file):
            raise errors.NotFound(
                f"there is no model file {path} on this machine. See what there is: rbee model list", "MODEL_NOT_FOUND"
            )
        return await asyncio.to_thread(self._model, shards_of(file))

    def _scan(self) -> tuple[ModelFile, ...]:
        groups = {shards_of(file) for folder in self._folders for file in _gguf_files(folder)}
        models = {files: self._model(files) for files in groups}
        # A copy of the keys: another thread may be inspecting a file.
        for gone in set(self._read) - {files[0] for files in groups}:
            self._read.pop(gone, None)
        return tuple(sorted(models.values(), key=lambda model: (model.name, model.model_ref)))

    def _model(self, files: tuple[Path, ...]) -> ModelFile:
        stamp = tuple(_stamp(file) for file in files)
        known = self._read.get(files[0])
        if known is None or known[0] != stamp:
            known = self._read[files[0]] = (stamp, read_model(files))
        return known[1]


def _gguf_files(folder: Path) -> list[Path]:
    """Returns the .gguf files under an absolute folder, which need not exist."""
    return [
        Path(place, name)
        for place, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(".gguf") and _is_text(place + name)
    ]


def _is_text(path: str) -> bool:
    """Tells whether a path can be sent: names of files may be any bytes."""
    return not any("\ud800" <= character <= "\udfff" for character in path)


def _stamp(file: Path) -> tuple[str, int, int]:
    try:
        status = file.stat()
    except OSError:
        return str(file), 0, -1
    return str(file), status.st_mtime_ns, status.st_size
