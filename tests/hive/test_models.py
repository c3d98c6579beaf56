import asyncio
import os
import struct

import gguf
import pytest

from hive.convert import model_to_wire
from hive.models.catalogue import Catalogue
from hive.models.facts import read_model, shards_of
from wire import errors
from wire.gguf_header import read_header


def test_a_good_file_is_described_from_its_metadata(tmp_path, write_gguf):
    path = write_gguf(tmp_path / "small.gguf", file_type=gguf.LlamaFileType.MOSTLY_Q4_K_M)
    model = read_model([path])
    assert (model.model_ref, model.name, model.family) == (f"file:{path}", "small", "llama")
    assert (model.context_length, model.block_count, model.quantization) == (256, 3, "Q4_K_M")
    assert model.parameter_count == 2 * 8 * 32
    # 3 blocks x 2 KV heads x (8 + 8) x 2 bytes
    assert model.kv_bytes_per_token == 192
    assert model.file_size_bytes == path.stat().st_size
    assert model.modify_time_s == path.stat().st_mtime
    assert model.defect == ""


def test_the_header_agrees_with_the_gguf_packages_own_reader(tmp_path, write_gguf):
    path = write_gguf(tmp_path / "a.gguf", kv_heads=[2, 1, 0], tokens=5000)
    ours, theirs = read_header(path), gguf.GGUFReader(path)
    for key, value in ours.fields.items():
        read = theirs.get_field(key).contents()
        assert value == (tuple(read) if isinstance(read, list) else read), key
    assert theirs.get_field("tokenizer.ggml.tokens") is not None
    assert "tokenizer.ggml.tokens" not in ours.fields
    assert ours.parameter_count == sum(int(tensor.n_elements) for tensor in theirs.tensors)
    assert ours.end_of_data == max(int(tensor.data_offset + tensor.n_bytes) for tensor in theirs.tensors)


def test_kv_heads_per_layer_are_summed(tmp_path, write_gguf):
    model = read_model([write_gguf(tmp_path / "a.gguf", kv_heads=[2, 1, 0])])
    assert model.kv_bytes_per_token == (2 + 1 + 0) * (8 + 8) * 2


def test_strings_longer_than_a_chunk_are_read_over(tmp_path):
    path = tmp_path / "long.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("tokenizer.ggml.tokens", ["x" * 700_000, "y" * 2_500_000, "z"])
    writer.add_context_length(77)
    writer.add_tensor("t", __import__("numpy").zeros((4, 4), dtype="float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = read_model([path])
    assert (model.defect, model.context_length, model.parameter_count) == ("", 77, 16)


def test_every_truncation_is_found(tmp_path, write_gguf):
    whole = write_gguf(tmp_path / "whole.gguf")
    data, end = whole.read_bytes(), read_header(whole).end_of_data
    cut = tmp_path / "cut.gguf"
    for length in [*range(4, end, 97), end - 1]:
        cut.write_bytes(data[:length])
        assert read_model([cut]).defect.startswith("truncated: "), length
    cut.write_bytes(data[: end - 1])
    assert read_model([cut]).defect == f"truncated: tensor data ends at byte {end - 1} of {end}"


@pytest.mark.parametrize(
    ("content", "defect"),
    [
        (b"", "not a GGUF file"),
        (b"PK\x03\x04 a zip file", "not a GGUF file"),
        (b"GGUF" + struct.pack("<I", 1), "version 1"),
        (b"GGUF" + struct.pack(">I", 3), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60) + b"\xff" * 64, "truncated"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<I", 99),
            "unknown type 99",
        ),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "names no architecture"),
    ],
)
def test_garbage_has_a_defect_that_says_what_it_is(tmp_path, content, defect):
    path = tmp_path / "garbage.gguf"
    path.write_bytes(content)
    assert defect in read_model([path]).defect


def test_random_damage_never_raises(tmp_path, write_gguf):
    import random

    draw = random.Random(7)
    data = bytearray(write_gguf(tmp_path / "a.gguf").read_bytes())
    damaged = tmp_path / "damaged.gguf"
    for _ in range(400):
        copy = bytearray(data)
        for _ in range(3):
            copy[draw.randrange(8, 700)] = draw.randrange(256)
        damaged.write_bytes(copy)
        assert model_to_wire(read_model([damaged])).name == "damaged"


def shard(folder, write_gguf, number, total=3):
    return write_gguf(folder / f"big-{number:05}-of-{total:05}.gguf")


async def test_shards_are_one_model_and_a_missing_one_is_named(tmp_path, write_gguf):
    first, second, third = (shard(tmp_path, write_gguf, number) for number in (1, 2, 3))
    catalogue = Catalogue([tmp_path])
    await catalogue.refresh()
    (model,) = catalogue.models
    assert (model.name, model.model_ref, model.defect) == ("big", f"file:{first}", "")
    assert model.parameter_count == 3 * 2 * 8 * 32
    assert model.file_size_bytes == sum(path.stat().st_size for path in (first, second, third))
    second.unlink()
    assert await catalogue.refresh()
    assert catalogue.models[0].defect == f"incomplete: {second.name} is missing"
    first.unlink()
    assert await catalogue.refresh()
    assert catalogue.models[0].defect == f"incomplete: {first.name} is missing"
    assert shards_of(third) == (first, second, third)


async def test_the_catalogue_follows_its_directories_and_reads_a_header_once(tmp_path, write_gguf):
    catalogue = Catalogue([tmp_path / "a", tmp_path / "missing"])
    assert not await catalogue.refresh()
    (tmp_path / "a" / "deep").mkdir(parents=True)
    path = write_gguf(tmp_path / "a" / "deep" / "m.gguf")
    assert await catalogue.refresh()
    (before,) = catalogue.models
    assert not await catalogue.refresh()
    assert catalogue.models[0] is before
    (tmp_path / "a" / os.fsdecode(b"\xff.gguf")).write_bytes(b"")
    path.write_bytes(path.read_bytes()[:-100])
    assert await catalogue.refresh()
    assert catalogue.models[0].defect.startswith("truncated")
    path.unlink()
    assert await catalogue.refresh()
    assert catalogue.models == ()


async def test_any_file_can_be_inspected_by_its_absolute_path(tmp_path, write_gguf):
    path = write_gguf(tmp_path / "elsewhere.gguf")
    catalogue = Catalogue([tmp_path / "models"])
    assert (await catalogue.inspect(str(path))).name == "elsewhere"
    with pytest.raises(errors.NotFound, match="rbee model list") as missing:
        await catalogue.inspect(str(tmp_path / "missing.gguf"))
    assert missing.value.reason == "MODEL_NOT_FOUND"
    with pytest.raises(errors.Invalid):
        await catalogue.inspect("relative.gguf")


async def test_a_named_pipe_does_not_hold_up_the_catalogue(tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    catalogue = Catalogue([tmp_path])
    async with asyncio.timeout(5):
        await catalogue.refresh()
    assert catalogue.models[0].defect == "not a regular file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read_says_so(tmp_path, write_gguf):
    path = write_gguf(tmp_path / "a.gguf")
    path.chmod(0)
    assert read_model([path]).defect == "unreadable: a.gguf: Permission denied"
