"""Asks a queen through litellm and prints what came as JSON: client.py http://HOST:PORT/v1."""

import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch one

import litellm
import openai

litellm.suppress_debug_info = True
HERE = {"api_base": sys.argv[1], "api_key": "any", "num_retries": 0, "max_retries": 0}
QUESTION = {"messages": [{"role": "user", "content": "What is a hive?"}], "temperature": 0}
TOOL = {
    "type": "function",
    "function": {
        "name": "count",
        "parameters": {"type": "object", "properties": {"of": {"enum": ["bees"]}}, "required": ["of"]},
    },
}
BEGUN = [{"role": "user", "content": "Count!"}, {"role": "assistant", "content": '<tool_call>\n{"name": "count"'}]


def ask(model="rbee-tiny", **wanted):
    return litellm.completion(model=f"openai/{model}", **{**HERE, **QUESTION, **wanted})


def failure(**wanted):
    try:
        ask(**wanted)
    except openai.APIError as error:
        return type(error).__name__
    return "none"


whole = ask()
chunks = list(ask(stream=True, stream_options={"include_usage": True}))
call = ask("tools", messages=BEGUN, tools=[TOOL], tool_choice="required", max_tokens=200)
told = {
    "whole": whole.choices[0].message.content,
    "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
    "usage": next(chunk.usage.completion_tokens for chunk in reversed(chunks) if getattr(chunk, "usage", None)),
    "call": call.choices[0].message.tool_calls[0].function.name,
    "failures": [
        failure(model="none-such"),
        failure(temperature=9),
        failure(messages=[{"role": "user", "content": "x" * 5000}]),
    ],
}
print(json.dumps(told))  # noqa: T201  # a script talks to its caller
