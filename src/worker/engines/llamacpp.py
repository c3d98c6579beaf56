"""llama.cpp in this process, by xllamacpp: continuous batching over the slots, one thread per running generation.

Answers come from the in-process completion calls, which run a callback per chunk on the calling thread. xllamacpp also
opens llama.cpp's HTTP listener; it stays on loopback, on a random port behind a random key, and serves the three
questions the in-process interface has no call for: the chat template, the tokenizer and the properties of the model.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import os
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import psutil

from wire import errors
from wire.gguf_header import Defect, read_header
from worker.engines import llama_requests
from worker.engines.llama_chunks import ChatReader, TextReader, engine_error
from worker.engines.options import read_options
from worker.engines.port import DEFAULT_CONTEXT_LENGTH, Backend, Ending, Piece, Request

_BATCH_TOKENS: Final[dict[bool, int]] = {False: 128, True: 512}
"""Prompt tokens read in one step, without and with a GPU. A generation can be ended between steps only, so llama.cpp's
2,048 is too long; smaller steps than these would read prompts more slowly."""
_ALL_LAYERS: Final = 999
_POOLINGS: Final = (1, 2, 3)
"""Values of a GGUF file's pooling_type that make one vector of a text: mean, first, last token. 4 is for rankings."""
_TEXTS_AT_ONCE: Final = 8
_VECTOR_BYTES: Final = 12 * 2**20
"""The most of one answer's vectors: they leave in one message."""
_KNOWN_SCHEMAS: Final = 256
_BACKENDS: Final[dict[str, Backend]] = {"CUDA": "cuda", "ROCm": "rocm", "MTL": "metal", "Metal": "metal"}


@dataclass(frozen=True, slots=True)
class LlamaOptions:
    """What can be set about llama.cpp; each field is an engine option of that name."""

    threads: int = field(default=0, metadata={"help": "processor threads; 0: one per physical core but one"})
    gpu_layers: int = field(default=_ALL_LAYERS, metadata={"help": "layers put on the GPU, where a device is given"})


class LlamaCpp:
    """A GGUF model in llama.cpp. Slots never share context: each holds `context_length` tokens."""

    name = "llamacpp"

    def __init__(
        self, model: Path, slots: int, context_length: int, devices: tuple[str, ...], options: Mapping[str, str]
    ) -> None:
        self.slots = slots
        self.context_length = context_length
        self.version = f"xllamacpp {metadata.version('xllamacpp')}"
        self.backend: Backend = "cpu"
        self._model = model
        self._devices = tuple(device for device in devices if device not in ("cpu", "none"))
        self._options = read_options(LlamaOptions, options, self.name)
        self._key = secrets.token_urlsafe(32)
        self._threads = ThreadPoolExecutor(slots, "generation")
        self._turn_to_read = asyncio.Lock()
        self._known_schemas: set[bytes] = set()
        self._eos_token_id: int | None = None
        self._server: Any
        self._supports_tools = False
        self._pooling = 0  # how an embedding model makes one vector of all tokens'; 0 for a model that generates

    def load(self) -> None:
        """Loads the model; xllamacpp holds the interpreter lock meanwhile. Raises MODEL_UNUSABLE, NO_SUCH_DEVICE."""
        self._read_header()
        # Set before the library is loaded, which reads them once; numbers then mean what NVML means by them.
        visible = ",".join(device.removeprefix("gpu") for device in self._devices) or "-1"
        os.environ.update(CUDA_DEVICE_ORDER="PCI_BUS_ID", CUDA_VISIBLE_DEVICES=visible, HIP_VISIBLE_DEVICES=visible)
        import xllamacpp

        if self._devices:
            self.backend = _gpu_backend(xllamacpp.get_device_info(), self._devices)
        try:
            self._server = xllamacpp.Server(self._params(xllamacpp.CommonParams()))
        except RuntimeError as error:
            raise errors.WrongState(
                f"llama.cpp cannot load {self._model}; the lines above are its reasons. "
                "Fetch the file again, or give it more memory with a shorter --context-length or fewer --slots",
                "MODEL_UNUSABLE",
            ) from error
        properties = self._ask("/props", None)
        self.slots = properties["total_slots"]
        self._supports_tools = bool(properties.get("chat_template_caps", {}).get("supports_tools"))
        # llama.cpp rounds a slot's context up to a multiple of 256 tokens, and down to what the model was trained on.
        self.context_length = properties["default_generation_settings"]["n_ctx"]

    def _read_header(self) -> None:
        """Takes from the file what llama.cpp does not tell; a broken one is told apart here, in words."""
        try:
            facts = read_header(self._model).fields
        except (Defect, OSError) as error:
            raise errors.WrongState(
                f"{self._model} is not a usable GGUF model: {error}. Fetch the file again", "MODEL_UNUSABLE"
            ) from error
        trained = facts.get(f"{facts.get('general.architecture')}.context_length")
        if not self.context_length:
            known = trained if isinstance(trained, int) and trained else DEFAULT_CONTEXT_LENGTH
            self.context_length = min(known, DEFAULT_CONTEXT_LENGTH)
        pooling = facts.get(f"{facts.get('general.architecture')}.pooling_type")
        self._pooling = pooling if isinstance(pooling, int) and pooling in _POOLINGS else 0
        eos = facts.get("tokenizer.ggml.eos_token_id")
        self._eos_token_id = eos if isinstance(eos, int) else None

    def _params(self, params: Any) -> Any:
        params.model.path = str(self._model)
        params.n_parallel = self.slots
        params.n_ctx = self.context_length * self.slots
        params.n_batch = params.n_ubatch = _BATCH_TOKENS[bool(self._devices)]
        params.n_gpu_layers = self._options.gpu_layers if self._devices else 0
        if self._pooling:
            import xllamacpp

            params.embedding, params.pooling_type = True, xllamacpp.llama_pooling_type(self._pooling)
            params.n_batch = params.n_ubatch = self.context_length  # a text is read in one step, or not at all
        params.fit_params = False  # it would shrink the context to fit the memory without a word
        params.kv_unified = False
        params.cache_ram_mib = 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self._options.threads or _threads()
        params.use_jinja = True
        params.verbosity = 1  # errors only
        params.hostnames = ["127.0.0.1"]
        params.port = 0
        params.api_keys = [self._key]
        params.ui = params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
        params.n_threads_http = self.slots
        return params

    def close(self) -> None:
        """Frees the model; no generation runs any more."""
        self._threads.shutdown()
        self._server = None

    async def count_tokens(self, request: Request) -> int:
        """Returns the prompt's tokens after the chat template, on a thread: a long prompt takes its time."""
        return await asyncio.to_thread(self._count, request)

    def _count(self, request: Request) -> int:
        if request.texts:
            return sum(self._length(text) for text in request.texts)
        if request.tools:
            llama_requests.refuse_unserved_with_tools(request, self._supports_tools)
        return self._length(self._templated(request) if request.messages else request.prompt)

    def _length(self, prompt: str) -> int:
        # As llama.cpp cuts the prompt of a completion.
        return len(self._ask("/tokenize", {"content": prompt, "add_special": True, "parse_special": True})["tokens"])

    def _templated(self, request: Request) -> str:
        """Returns a chat as the text its model's template makes of it."""
        body = llama_requests.chat(request) | (llama_requests.tools(request) if request.tools else {})
        prompt: str = self._ask("/apply-template", body)["prompt"]
        return prompt

    async def generate(self, request: Request) -> AsyncGenerator[Piece | Ending, None]:
        """Yields pieces as llama.cpp makes them; see `Engine.generate`."""
        loop = asyncio.get_running_loop()
        run = _Run(loop, asyncio.Event())
        async with contextlib.AsyncExitStack() as reading:
            if self._is_long(request):
                # llama.cpp reads one prompt after the other; the call of one that waits inside it cannot be ended.
                await reading.enter_async_context(self._turn_to_read)
            thread = loop.run_in_executor(self._threads, self._run, request, run)
            thread.add_done_callback(lambda _: run.ready.set())
            try:
                while True:
                    await run.ready.wait()
                    run.ready.clear()
                    await reading.aclose()
                    ended = thread.done()
                    while run.made:
                        yield run.made.popleft()
                    if ended:
                        await thread
                        return
            finally:
                run.cancelled = True
                # The slot is free when the thread has returned, which it does at llama.cpp's next step.
                if not thread.done():
                    await asyncio.wait([thread])

    def _is_long(self, request: Request) -> bool:
        """Tells whether a prompt may take more than one step to read: a token is a character at least."""
        size = len(request.prompt) + sum(len(message.content) for message in request.messages)
        return size > _BATCH_TOKENS[bool(self._devices)]

    def _run(self, request: Request, run: _Run) -> None:
        """Runs one generation to its end, on a thread of its own."""
        self._check_kind(request)
        if request.texts:
            self._embed(request.texts, run)
            return
        body = llama_requests.settings(request, self.context_length)
        if request.tools:
            llama_requests.refuse_unserved_with_tools(request, self._supports_tools)
            reader: ChatReader | TextReader = ChatReader()
            body |= llama_requests.chat(request) | llama_requests.tools(request)
            call = self._server.handle_chat_completions
        else:
            prompt = request.prompt
            if request.messages:
                prompt = self._templated(request)
            body |= llama_requests.completion(request, prompt)
            if request.json_schema:
                self._check_schema(request.json_schema, body, run)
            reader = TextReader(request, self._ask)
            call = self._server.handle_completions

        def take(chunk: dict[str, Any]) -> bool:
            """Takes a chunk; true ends the generation. xllamacpp drops what is raised here, hence the check below."""
            run.put(reader.read(chunk))
            return run.cancelled or reader.failure is not None

        _call(call, body, take)
        if reader.failure is not None:
            raise reader.failure
        if not reader.ended and not run.cancelled:
            raise errors.Internal("llama.cpp broke off without an ending", "ENGINE_FAILED")

    def _check_kind(self, request: Request) -> None:
        if request.texts and not self._pooling:
            raise errors.WrongState(
                f"{self._model.name} generates text and makes no vectors of it; use an embedding model",
                "NOT_AN_EMBEDDING_MODEL",
            )
        if self._pooling and not request.texts:
            raise errors.WrongState(
                f"{self._model.name} makes vectors of texts and generates none; use another model",
                "NOT_A_GENERATING_MODEL",
            )

    def _embed(self, texts: tuple[str, ...], run: _Run) -> None:
        """Makes a vector of each text, of length 1. A few at a time: it can be ended only between two calls."""
        vectors: list[tuple[float, ...]] = []
        tokens = 0
        while len(vectors) < len(texts) and not run.cancelled:
            some = texts[len(vectors) : len(vectors) + _TEXTS_AT_ONCE]
            try:
                made = self._server.handle_embeddings({"input": list(some)})
            except ValueError as error:
                raise errors.Invalid(f"llama.cpp refuses the request: {error}") from error
            except RuntimeError as error:
                raise errors.Internal(f"llama.cpp failed: {error}", "ENGINE_FAILED") from error
            if "error" in made:
                longest = max(map(self._length, some))  # llama.cpp tells one that is too long as a fault of its own
                if longest > self.context_length:
                    raise errors.prompt_too_long(longest, self.context_length)
                raise engine_error(made["error"])
            vectors += [tuple(one["embedding"]) for one in made["data"]]
            if len(texts) > (most := _VECTOR_BYTES // (4 * len(vectors[0]))):
                fault = errors.FieldFault("job.embedding.texts", f"at most {most:,} for this model, not {len(texts):,}")
                raise errors.invalid([fault])
            tokens += made["usage"]["prompt_tokens"]
        run.put([Ending("stop", tokens, embeddings=tuple(vectors))])

    def _check_schema(self, schema: str, body: dict[str, Any], run: _Run) -> None:
        """Refuses a JSON Schema that llama.cpp cannot compile: it would log so and generate without any constraint.

        One token is drawn with the end of text made overwhelmingly likely. JSON never begins with that, so it comes
        only where nothing constrains the output. The prompt is read once: the real call finds it in the cache.
        """
        digest = hashlib.sha256(schema.encode()).digest()
        if digest in self._known_schemas or self._eos_token_id is None:
            return
        probe = body | {"n_predict": 1, "temperature": 0, "logit_bias": [[self._eos_token_id, 1000]]}
        last: dict[str, Any] = {}

        def take(chunk: dict[str, Any]) -> bool:
            last.update(chunk)
            return run.cancelled

        _call(self._server.handle_completions, probe, take)
        if "error" in last:
            raise engine_error(last["error"])
        if run.cancelled:
            return
        if last["choices"][0]["finish_reason"] == "stop":
            expected = "a schema llama.cpp can compile; its log names the place it could not"
            raise errors.invalid([errors.FieldFault("job.output_format.json_schema", expected)])
        if len(self._known_schemas) >= _KNOWN_SCHEMAS:
            self._known_schemas.clear()
        self._known_schemas.add(digest)

    def _ask(self, path: str, body: dict[str, Any] | None) -> Any:
        """Asks llama.cpp's own listener; blocks for about a millisecond."""
        address = self._server.listening_address.removeprefix("http://")
        connection = http.client.HTTPConnection(address, timeout=60)
        try:
            connection.request(
                "GET" if body is None else "POST",
                path,
                None if body is None else json.dumps(body),
                {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json", "Connection": "close"},
            )
            answer = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise errors.Internal(f"llama.cpp does not answer {path}: {error}", "ENGINE_FAILED") from error
        finally:
            connection.close()
        if "error" in answer:
            raise engine_error(answer["error"])
        return answer


@dataclass(slots=True)
class _Run:
    """What the thread of a generation and the event loop share; each member is written by one side only."""

    loop: asyncio.AbstractEventLoop
    ready: asyncio.Event
    made: deque[Piece | Ending] = field(default_factory=deque)
    cancelled: bool = False

    def put(self, items: list[Piece | Ending]) -> None:
        """Hands items to the loop; called on the thread."""
        if items:
            self.made.extend(items)
            self.loop.call_soon_threadsafe(self.ready.set)


def _call(call: Any, body: dict[str, Any], take: Callable[[dict[str, Any]], bool]) -> None:
    """Calls llama.cpp; C++ exceptions come as the Python ones that Cython maps them to."""
    try:
        call(body, take)
    except ValueError as error:
        raise errors.Invalid(f"llama.cpp refuses the request: {error}") from error
    except RuntimeError as error:
        raise errors.Internal(f"llama.cpp failed: {error}", "ENGINE_FAILED") from error


def _threads() -> int:
    """Returns how many threads to compute with: one core is left to the streams, for whose sake all this is done."""
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return max(1, min(cores, allowed) - 1)


def _gpu_backend(found: list[dict[str, Any]], wanted: tuple[str, ...]) -> Backend:
    """Returns how the GPUs are driven. Raises `WrongState` NO_SUCH_DEVICE rather than fall back to the processor."""
    for device in found:
        for prefix, backend in _BACKENDS.items():
            if str(device.get("name", "")).startswith(prefix):
                return backend
    raise errors.WrongState(
        f"this build of llama.cpp drives no GPU, so {', '.join(wanted)} cannot be used. "
        "Install the xllamacpp wheel for CUDA or ROCm, or use --device cpu",
        "NO_SUCH_DEVICE",
    )
