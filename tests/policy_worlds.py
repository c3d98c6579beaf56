"""A small cluster, and policies asked about it."""

from pathlib import Path

from queen.policy.language import Program
from queen.policy.scenario import Reader

NOW = 1_767_787_200_000
PLATFORM = (Path(__file__).parents[1] / "policies" / "platform.lua").read_text()

CLUSTER = {
    "models": [
        {
            "model_ref": "llama",
            "name": "Llama",
            "family": "llama",
            "vram_required_mb": 6000,
            "file_size_bytes": 4 << 30,
        },
        {"model_ref": "qwen", "family": "qwen", "vram_required_mb": 20000},
        {"model_ref": "phi", "family": "phi"},
    ],
    "pools": [
        {
            "id": "barn",
            "status": "degraded",
            "ram_free_mb": 3000,
            "cached_models": ["llama"],
            "heartbeat_age_ms": 4000,
            "geo": {"latitude": 42.4, "longitude": -71.1, "region": "us"},
        },
        {
            "id": "mill",
            "geo": {"latitude": 52.5, "longitude": 13.4, "region": "eu"},
            "labels": {"rack": "a"},
            "gpus": [
                {"id": "gpu0", "device_name": "RTX 3090", "vram_total": 24000, "vram_free": 10000},
                {"id": "gpu1", "device_name": "RTX 3090", "vram_total": 24000, "vram_free": 22000},
            ],
        },
    ],
    "workers": [
        {
            "id": "a",
            "pool_id": "mill",
            "model": "llama",
            "slots_total": 4,
            "in_flight": 2,
            "vram_mb": 6000,
            "total_vram_mb": 24000,
            "cost_per_token": 3e-6,
            "avg_tokens_per_sec": 50,
            "gpu_ids": ["gpu0"],
            "labels": {"tier": "gold"},
            "geo": {"latitude": 52.5, "longitude": 13.4, "region": "eu"},
            "uptime_s": 100,
        },
        {
            "id": "b",
            "pool_id": "mill",
            "model": "llama",
            "slots_total": 4,
            "vram_free": 9000,
            "cost_per_token": 1e-6,
            "avg_tokens_per_sec": 25,
            "gpu_ids": ["gpu1"],
            "idle_ms": 5000,
            "jobs_completed": 9,
            "geo": {"latitude": 48.1, "longitude": 11.6},
        },
        {"id": "c", "pool_id": "barn", "model": "qwen", "status": "loading", "slots_available": 0},
        {"id": "d", "pool_id": "barn", "model": "phi", "idle_ms": 90000, "jobs_completed": 20, "pinned": True},
        {"id": "e", "pool_id": "barn", "model": "phi", "idle_ms": 70000, "jobs_completed": 1},
    ],
    "tenants": [
        {
            "id": "lab",
            "weight": 2,
            "tokens_counter": 100,
            "quota_vram": 30000,
            "quota_used": 24000,
            "quota_max_concurrent_jobs": 2,
            "concurrent_jobs": 1,
            "quota_tokens_daily": 1000,
            "tokens_used_today": 500,
        },
        {"id": "full", "quota_max_concurrent_jobs": 1, "concurrent_jobs": 1, "tokens_counter": 10},
    ],
    "config": {"replicas": 1},
}
JOBS = [
    {
        "id": "j1",
        "model": "llama",
        "tenant_id": "lab",
        "prompt_tokens": 100,
        "max_tokens": 200,
        "wait_time_ms": 3000,
        "deadline": 60000,
        "seed": 7,
        "labels": {"team": "x"},
        "user": {"geo": {"latitude": 48.2, "longitude": 16.4, "region": "eu"}},
    },
    {"id": "j2", "model": "qwen", "tenant_id": "full", "priority": "batch", "wait_time_ms": 400_000},
    {"id": "j3", "model": "phi", "priority": "batch", "wait_time_ms": 1000},
]


def program(cluster=CLUSTER, jobs=JOBS):
    """A program with the cluster in it and the platform policy loaded."""
    reader = Reader(NOW)
    scenario = reader.scenario(cluster, jobs)
    assert reader.faults == []
    made = Program()
    assert made.load_platform(PLATFORM) is None
    scenario.fill(made)
    return made
