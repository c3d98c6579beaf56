"""What one model is, from the header of its file or the headers of its shards."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from hive.core.model import ModelFile
from wire.gguf_header import Defect, Header, Value, read_header
from wire.gguf_layout import FILE_TYPES

_MOST: Final = 2**31
_SHARD: Final = re.compile(r"-(\d{5})-of-(\d{5})$")


def shards_of(path: Path) -> tuple[Path, ...]:
    """Returns the files of the model that `path` belongs to, first one first; just `path` when it is whole.

    "x-00002-of-00003.gguf" belongs to three files, which need not all be there.
    """
    match = _SHARD.search(path.stem)
    if match is None:
        return (path,)
    stem, total = path.stem[: match.start()], int(match[2])
    return tuple(path.with_name(f"{stem}-{number:05}-of-{total:05}{path.suffix}") for number in range(1, total + 1))


def read_model(files: Sequence[Path]) -> ModelFile:
    """Returns what the model in `files` is; what is wrong with it goes into `defect`, nothing is raised."""
    first = files[0]
    sizes, times, headers = [], [], []
    defect = ""
    for file in files:
        try:
            status = file.stat()
            sizes.append(status.st_size)
            times.append(status.st_mtime)
            headers.append(read_header(file))
        except FileNotFoundError:
            defect = defect or f"incomplete: {file.name} is missing"
        except OSError as error:
            defect = defect or f"unreadable: {file.name}: {error.strerror}"
        except Defect as error:
            defect = defect or (str(error) if len(files) == 1 else f"{file.name}: {error}")
    fields = headers[0].fields if headers else {}
    return ModelFile(
        model_ref=f"file:{first}",
        name=_SHARD.sub("", first.stem),
        family=_text(fields.get("general.architecture")),
        parameter_count=sum(header.parameter_count for header in headers),
        context_length=_own(fields, "context_length"),
        quantization=_quantization(fields.get("general.file_type")),
        file_size_bytes=sum(sizes),
        modify_time_s=max(times, default=0.0),
        block_count=_own(fields, "block_count"),
        kv_bytes_per_token=_kv_bytes_per_token(fields),
        defect=defect or _emptiness(headers),
    )


def _emptiness(headers: Sequence[Header]) -> str:
    if not _text(headers[0].fields.get("general.architecture")):
        return "its metadata names no architecture"
    return "" if any(header.tensor_count for header in headers) else "it holds no tensors, only metadata"


def _kv_bytes_per_token(fields: Mapping[str, Value]) -> int:
    """Returns bytes of KV cache per token at 16 bits: over all layers, KV heads x (key + value width) x 2 bytes.

    As llama.cpp sizes its cache; a width that is not given is embedding width / heads. 0 when not known.
    """
    prefix = f"{_text(fields.get('general.architecture'))}."
    blocks, heads = _own(fields, "block_count"), _largest(fields.get(f"{prefix}attention.head_count"))
    width = _own(fields, "embedding_length") // heads if heads else 0
    key = _own(fields, "attention.key_length") or width
    value = _own(fields, "attention.value_length") or width
    kv_heads = fields.get(f"{prefix}attention.head_count_kv", heads)
    total = sum(map(_largest, kv_heads)) if isinstance(kv_heads, tuple) else _largest(kv_heads) * blocks
    return min(total * (key + value) * 2, 2**63)


def _own(fields: Mapping[str, Value], key: str) -> int:
    """Returns a number the architecture has under its own name; 0 when there is none."""
    return _largest(fields.get(f"{_text(fields.get('general.architecture'))}.{key}"))


def _largest(value: Value | None) -> int:
    """Returns a number, of per-layer numbers the largest; 0 for anything else and for what no model has."""
    numbers = value if isinstance(value, tuple) else (value,)
    return max((int(number) for number in numbers if isinstance(number, int) and 0 < number < _MOST), default=0)


def _text(value: Value | None) -> str:
    return value if isinstance(value, str) else ""


def _quantization(file_type: Value | None) -> str:
    return FILE_TYPES.get(file_type, "") if isinstance(file_type, int) else ""
