"""Our numbers of the GGUF format against those of llama.cpp's own package."""

import gguf

from wire import gguf_layout


def test_values_are_laid_out_as_the_package_says():
    names = {"B": "UINT8", "b": "INT8", "H": "UINT16", "h": "INT16", "I": "UINT32", "i": "INT32"}
    names |= {"f": "FLOAT32", "?": "BOOL", "Q": "UINT64", "q": "INT64", "d": "FLOAT64"}
    ours = {number: names[layout.format[1:]] for number, layout in gguf_layout.SCALARS.items()}
    ours |= {gguf_layout.STRING: "STRING", gguf_layout.ARRAY: "ARRAY"}
    assert ours == {kind.value: kind.name for kind in gguf.GGUFValueType}
    assert all(layout.format.startswith("<") for layout in gguf_layout.SCALARS.values())
    assert (gguf_layout.MAGIC, gguf_layout.DEFAULT_ALIGNMENT) == (gguf.GGUF_MAGIC, gguf.GGUF_DEFAULT_ALIGNMENT)


def test_a_block_takes_what_the_package_says():
    assert dict(gguf_layout.BLOCKS) == {kind.value: size for kind, size in gguf.GGML_QUANT_SIZES.items()}


def test_file_types_are_called_as_the_package_says():
    theirs = {kind.value: kind.name for kind in gguf.LlamaFileType if kind is not gguf.LlamaFileType.GUESSED}
    assert dict(gguf_layout.FILE_TYPES) == {
        number: name.removeprefix("MOSTLY_").removeprefix("ALL_") for number, name in theirs.items()
    }
