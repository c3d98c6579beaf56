"""The bundled model made into others: with a chat template that knows tools, and as one that embeds.

It never learned to call a tool, nor to put like texts near each other.
"""

from __future__ import annotations

from pathlib import Path

import gguf

from programs import MODEL

TEMPLATE = """{% if tools %}<|system|>
# Tools
You may call one or more functions. They are within <tools></tools> XML tags:
<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools>
For each function call, return a json object within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|end|>
{% endif %}{% for message in messages %}<|{{ message.role }}|>
{{ message.content }}{% for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|end|>
{% endfor %}{% if add_generation_prompt %}<|assistant|>
{% endif %}"""


def with_tools(path: Path) -> Path:
    """Writes the one that knows tools to a file and returns that."""
    return _rewritten(path, TEMPLATE)


def that_embeds(path: Path) -> Path:
    """Writes the one that embeds, by the mean of its tokens' vectors, to a file and returns that."""
    return _rewritten(path, None, pooling=gguf.PoolingType.MEAN)


def _rewritten(path: Path, template: str | None, pooling: gguf.PoolingType | None = None) -> Path:
    reader, writer = gguf.GGUFReader(MODEL), gguf.GGUFWriter(path, "llama")
    if pooling is not None:
        writer.add_pooling_type(pooling)
    for name, entry in reader.fields.items():
        if name == "tokenizer.chat_template" and template is not None:
            writer.add_chat_template(template)
        elif not name.startswith("GGUF.") and name != "general.architecture":
            inner = entry.types[-1] if len(entry.types) > 1 else None
            writer.add_key_value(name, entry.contents(), entry.types[0], inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
