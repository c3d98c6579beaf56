"""What the cluster has, over HTTP: its models, and whether it is well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.types import Receive, Scope, Send

from queen.core.model import ModelFile
from queen.core.ports import Store
from queen.registry.cluster import Cluster
from queen.services.intake import Models
from queen.web import edge
from wire import errors


class ModelPages:
    """/v1/models: those that hives hold, and those that workers run besides."""

    def __init__(self, cluster: Cluster, models: Models) -> None:
        self._cluster = cluster
        self._models = models

    async def list(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lists all models."""
        held = dict(self._cluster.models.list_models())
        run = {worker.model_ref for worker in self._cluster.list_online_workers()}
        models = [self._model(ref, held.get(ref, {})) for ref in dict.fromkeys([*held, *sorted(run)])]
        await edge.respond_json(send, {"object": "list", "data": models})

    async def get(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tells which model a name means."""
        model_ref = await self._models.resolve(scope["path_params"]["model"])
        held = dict(self._cluster.models.list_models())
        await edge.respond_json(send, self._model(model_ref, held.get(model_ref, {})))

    def _model(self, model_ref: str, files: Mapping[str, ModelFile]) -> dict[str, Any]:
        """Returns a model; its id is its name, or its reference where others have the name too."""
        file = next(iter(files.values()), ModelFile(model_ref, model_ref))
        return {
            "id": file.name if self._is_clear(file.name, model_ref) else model_ref,
            "object": "model",
            "created": int(file.modify_time or 0),
            "owned_by": "rbee",
            "rbee": {
                "model_ref": model_ref,
                "hives": sorted(files),
                "workers": [worker.id for worker in self._cluster.find_workers_with_model(model_ref)],
                "context_length": file.context_length,
                "parameter_count": file.parameter_count,
                "quantization": file.quantization,
                "defect": file.defect,
            },
        }

    def _is_clear(self, name: str, model_ref: str) -> bool:
        try:
            return self._cluster.models.find(name) == model_ref
        except errors.Invalid:
            return False


class Health:
    """/healthz and /readyz. `is_open` tells whether she takes jobs."""

    def __init__(self, cluster: Cluster, store: Store, is_open: Callable[[], bool]) -> None:
        self._cluster = cluster
        self._store = store
        self._is_open = is_open

    async def live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers while the queen lives."""
        await edge.respond_json(send, {"status": "ok"})

    async def ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tells whether she takes work, and all that stands against it."""
        faults = [] if self._is_open() else ["the queen is stopping"]
        try:
            self._store.check_writable()
        except errors.Unreachable as error:
            faults.append(error.message)
        if not self._cluster.list_online_hives():
            faults.append("no hive is online; start one with: rbee up")
        if faults:
            await edge.respond_json(send, {"status": "not ready", "faults": faults}, 503)
        else:
            await edge.respond_json(send, {"status": "ok"})
