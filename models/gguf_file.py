"""Writes the trained weights as a GGUF file that llama.cpp loads as it is."""

from pathlib import Path

import gguf
import jax.numpy as jnp
import numpy as np
from batches import CONTEXT_LENGTH
from transformer import Shape, Weights
from vocabulary import BEGIN, CHAT_TEMPLATE, END, FIRST_BYTE, ROLES, SIZE, SPACE, UNKNOWN, pieces

DESCRIPTION = (
    "A byte-level model of two million parameters that answers questions about rbee. Made for tests and demonstrations."
)


def write_gguf(path: Path, shape: Shape, weights: Weights) -> None:
    """Writes the file: matrices as float16, norms as float32 (llama.cpp requires it), and all metadata."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name("rbee-tiny")
    writer.add_description(DESCRIPTION)
    writer.add_license("Apache-2.0")
    writer.add_languages(["en"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)
    writer.add_vocab_size(shape.vocabulary)
    _add_vocabulary(writer)
    for name, value in weights.items():
        array = np.asarray(value)
        writer.add_tensor(name, array.astype(np.float16) if array.ndim == 2 else array.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_weights(path: Path) -> Weights:
    """The weights in a file that write_gguf wrote, as float32."""
    return {tensor.name: jnp.asarray(tensor.data, jnp.float32) for tensor in gguf.GGUFReader(path).tensors}


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    """Adds tokens, special tokens and the chat template; no score matters, as no two tokens ever merge."""
    kinds = [gguf.TokenType.BYTE] * SIZE
    kinds[UNKNOWN] = gguf.TokenType.UNKNOWN
    kinds[SPACE] = gguf.TokenType.NORMAL
    for token in (BEGIN, END, *ROLES.values()):
        kinds[token] = gguf.TokenType.CONTROL
    assert kinds[FIRST_BYTE] == gguf.TokenType.BYTE
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(pieces())
    writer.add_token_scores([0.0] * SIZE)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(BEGIN)
    writer.add_eos_token_id(END)
    writer.add_eot_token_id(END)
    writer.add_unk_token_id(UNKNOWN)
    writer.add_pad_token_id(UNKNOWN)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    # Without this, llama.cpp would put a space before every text, which training never saw.
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)
