"""Which models there are, and which file of which hive is one of them."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable

from queen.core.model import ModelFile
from wire import errors

_Identity = tuple[str, int]


class ModelCatalogue:
    """Models by reference. Files of one name and one size on several hives are one model, whatever their folders.

    The reference under which a model was first seen is the one jobs and workers carry in the queen; on a hive its
    own reference is used. `revision` is another after each change.
    """

    def __init__(self) -> None:
        self._ref_of: dict[_Identity, str] = {}
        self._files: defaultdict[str, dict[str, ModelFile]] = defaultdict(dict)  # queen's ref -> hive -> file
        self._local: dict[tuple[str, str], str] = {}  # (hive, hive's ref) -> queen's ref
        self._outside: dict[str, dict[str, ModelFile]] = {}  # hive -> files outside its model directories
        self.revision = 0

    def set_files(self, hive_id: str, files: Iterable[ModelFile]) -> None:
        """Replaces what a hive holds in its model directories."""
        self.revision += 1
        for held in self._files.values():
            held.pop(hive_id, None)
        for key in [key for key in self._local if key[0] == hive_id]:
            del self._local[key]
        for file in (*files, *self._outside.get(hive_id, {}).values()):
            self._add(hive_id, file)

    def add_outside(self, hive_id: str, file: ModelFile) -> str:
        """Adds a file outside a hive's model directories; returns the model's reference."""
        self._outside.setdefault(hive_id, {})[file.model_ref] = file
        return self._add(hive_id, file)

    def canonical(self, model_ref: str, hive_id: str) -> str:
        """Returns the queen's reference for a hive's own."""
        return self._local.get((hive_id, model_ref), model_ref)

    def file_on(self, model_ref: str, hive_id: str) -> ModelFile | None:
        """Returns a model's file on a hive; None where it holds none."""
        if model_ref.startswith("synthetic:"):
            return ModelFile(model_ref, model_ref)
        return self._files.get(model_ref, {}).get(hive_id)

    def list_models(self) -> list[tuple[str, dict[str, ModelFile]]]:
        """Returns (reference, files by hive) of all models held somewhere, by name."""
        held = [(ref, files) for ref, files in self._files.items() if files]
        return sorted(held, key=lambda pair: (next(iter(pair[1].values())).name, pair[0]))

    def find(self, wanted: str) -> str | None:
        """Returns the reference a name or reference means; None when nothing is held by it.

        Raises `Invalid` AMBIGUOUS_MODEL when models of several sizes have the name.
        """
        if wanted.startswith("synthetic:") or self._files.get(wanted):
            return wanted
        for (_, local), ref in self._local.items():
            if local == wanted:
                return ref
        bare = wanted.removesuffix(".gguf").casefold()
        refs = [ref for ref, files in self.list_models() if next(iter(files.values())).name.casefold() == bare]
        if len(refs) > 1:
            raise errors.Invalid(
                f"several models are named {wanted}; say which by its reference: {', '.join(refs)}", "AMBIGUOUS_MODEL"
            )
        return refs[0] if refs else None

    def name_of(self, model_ref: str) -> str:
        """Returns a model's short name; its reference when no hive holds it."""
        files = self._files.get(model_ref)
        return next(iter(files.values())).name if files else model_ref

    def nearest(self, wanted: str, count: int = 3) -> list[str]:
        """Returns the names most like a name that was not found, best first."""
        names = {next(iter(files.values())).name for _, files in self.list_models()}
        return difflib.get_close_matches(wanted, sorted(names), count, cutoff=0.4)

    def _add(self, hive_id: str, file: ModelFile) -> str:
        self.revision += 1
        ref = self._ref_of.setdefault((file.name, file.file_size_bytes), file.model_ref)
        self._files[ref][hive_id] = file
        self._local[hive_id, file.model_ref] = ref
        return ref
