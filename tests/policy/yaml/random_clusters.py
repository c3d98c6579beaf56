"""Random clusters with queued jobs, as rows of the policy language; most fields may be absent."""

from hypothesis import strategies as st

from queen.policy.scenario import Scenario

NOW_MS = 1_767_787_200_000  # a Wednesday at noon
MODELS = ["hf:a/llama-70b", "hf:a/llama-8b", "file:/m/phi.gguf"]
REGIONS = ["eu-west", "eu", "us"]
POOLS = ["austin", "mill", "paris"]


def row(required, optional):
    return st.fixed_dictionaries(required, optional=optional)


geo = row({}, {"region": st.sampled_from(REGIONS), "latitude": st.floats(-90, 90), "longitude": st.floats(-180, 180)})
labels = st.dictionaries(st.sampled_from(["team", "team-x", "rack"]), st.sampled_from(["a", "b", "blue"]))
megabytes = st.integers(0, 100_000)

jobs = row(
    {"model": st.sampled_from(MODELS), "priority": st.sampled_from(["interactive", "batch"])},
    {
        "tenant_id": st.sampled_from(["acme", "lab", "nobody"]),
        "type": st.sampled_from(["text-gen", "embedding", "image-gen"]),
        "seed": st.integers(0, 9),
        "max_tokens": st.integers(1, 4096),
        "deadline_at_ms": st.integers(NOW_MS - 1000, NOW_MS + 100_000),
        "submit_ms": st.integers(NOW_MS - 900_000, NOW_MS),
        "estimated_vram_mb": megabytes,
        "user_geo": geo,
        "labels": labels,
    },
)
workers = st.builds(
    lambda worker, slots, taken: {
        **worker,
        "slots_total": slots,
        "slots_available": max(0, slots - taken),
        "in_flight": min(slots, taken),
        "status": "busy" if worker["status"] == "ready" and taken >= slots else worker["status"],
    },
    row(
        {
            "model": st.sampled_from(MODELS),
            "pool_id": st.sampled_from(POOLS),
            "status": st.sampled_from(["ready", "ready", "ready", "loading", "draining"]),
        },
        {
            "backend": st.sampled_from(["cpu", "cuda"]),
            "gpu_ids": st.lists(st.sampled_from(["gpu0", "gpu1"]), unique=True),
            "total_vram_mb": megabytes,
            "vram_mb": st.integers(0, 40_000),
            "cost_per_token": st.floats(0, 1),
            "idle_since_ms": st.integers(NOW_MS - 900_000, NOW_MS),
            "pinned": st.booleans(),
            "min_residency_until_ms": st.integers(NOW_MS - 1000, NOW_MS + 1000),
            "jobs_completed": st.integers(0, 9),
            "device": st.sampled_from(["NVIDIA H100", "CPU"]),
            "geo": geo,
            "labels": labels,
        },
    ),
    st.integers(1, 3),
    st.integers(0, 3),
)
gpus = row({"id": st.sampled_from(["gpu0", "gpu1"])}, {"vram_total": megabytes, "vram_free": megabytes})
pools = row(
    {"status": st.sampled_from(["healthy", "healthy", "degraded", "offline"])},
    {
        "gpus": st.lists(gpus, max_size=2, unique_by=lambda gpu: gpu["id"]),
        "cached_models": st.lists(st.sampled_from(MODELS), unique=True),
        "ram_free_mb": megabytes,
        "geo": geo,
        "labels": labels,
    },
)
models = row({}, {"vram_required_mb": megabytes, "family": st.just("llama"), "file_size_bytes": st.integers(0, 2**40)})
tenants = row({}, {"weight": st.floats(0.5, 4), "concurrent_jobs": st.integers(0, 9)})


def numbered(prefix, rows, least, most):
    return st.lists(rows, min_size=least, max_size=most).map(
        lambda found: {f"{prefix}{n}": each for n, each in enumerate(found, 1)}
    )


clusters = st.builds(
    lambda job_rows, worker_rows, pool_rows, model_rows, tenant_rows: Scenario(
        NOW_MS,
        {"models": model_rows, "tenants": tenant_rows, "pools": pool_rows, "workers": worker_rows, "jobs": job_rows},
        tuple(job_rows),
    ),
    numbered("job-", jobs, 1, 4),
    numbered("w", workers, 0, 2) | numbered("w", workers, 3, 9) | numbered("w", workers, 3, 9),
    row({}, dict.fromkeys(POOLS, pools)) | row(dict.fromkeys(POOLS, pools), {}),
    row(dict.fromkeys(MODELS, models), {}) | row({}, dict.fromkeys(MODELS, models)),
    row({}, dict.fromkeys(["acme", "lab"], tenants)),
)
