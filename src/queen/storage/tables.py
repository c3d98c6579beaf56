"""The tables, as the newest migration leaves them. Times are seconds since 1970 UTC."""

from __future__ import annotations

from typing import Final

from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, LargeBinary, MetaData, String, Table, Text

METADATA: Final = MetaData()

HIVES: Final = Table(
    "hives",
    METADATA,
    Column("id", String, primary_key=True),
    Column("address", String, nullable=False),
    Column("managed", Boolean, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("platform", String, nullable=False),
    Column("version", String, nullable=False),
    Column("last_report_time", Float),
    Column("status", String, nullable=False),
)

JOBS: Final = Table(
    "jobs",
    METADATA,
    Column("id", String, primary_key=True),
    Column("order", BigInteger, nullable=False, unique=True),
    Column("request_id", String, unique=True),
    Column("state", String, nullable=False, index=True),
    Column("model", String, nullable=False),
    Column("model_ref", String, nullable=False),
    Column("type", String, nullable=False),
    Column("priority", String, nullable=False),
    Column("tenant_id", String, nullable=False),
    Column("session_id", String, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("detached", Boolean, nullable=False),
    Column("no_failover", Boolean, nullable=False),
    Column("timeout_s", Float, nullable=False),
    Column("submit_time", Float, nullable=False),
    Column("first_token_time", Float),
    Column("end_time", Float, index=True),
    Column("attempts", JSON, nullable=False),
    Column("usage", JSON),
    Column("finish_reason", String, nullable=False),
    Column("failure", JSON),
    Column("trace_id", String, nullable=False),
    Column("seed", BigInteger),
)

JOB_REQUESTS: Final = Table(
    "job_requests",
    METADATA,
    Column("job_id", String, primary_key=True),
    Column("spec", LargeBinary, nullable=False),
)

JOB_OUTPUTS: Final = Table(
    "job_outputs",
    METADATA,
    Column("job_id", String, primary_key=True),
    Column("first_sequence", BigInteger, nullable=False),
    Column("frames", LargeBinary, nullable=False),
    Column("lengths", JSON, nullable=False),
)
"""The events of detached jobs: `frames` is all of them joined, `lengths` where to cut them apart, in bytes."""

DECISIONS: Final = Table(
    "decisions",
    METADATA,
    Column("id", String, primary_key=True),
    Column("job_id", String, nullable=False, index=True),
    Column("policy", String, nullable=False),
    Column("policy_version", String, nullable=False),
    Column("action", String, nullable=False),
    Column("worker_id", String, nullable=False),
    Column("hive_id", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("candidates", JSON, nullable=False),
    Column("decide_time", Float, nullable=False, index=True),
    Column("duration_s", Float, nullable=False),
    Column("refusal", String, nullable=False),
)

POLICIES: Final = Table(
    "policies",
    METADATA,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False, index=True),
    Column("version", String, nullable=False),
    Column("language", String, nullable=False),
    Column("source", Text, nullable=False),
    Column("compiled_lua", Text, nullable=False),
    Column("sha256", String, nullable=False),
    Column("author", String, nullable=False),
    Column("create_time", Float, nullable=False),
)
"""Versions of policies; the id is "name@version"."""

POLICY_ACTIVATIONS: Final = Table(
    "policy_activations",
    METADATA,
    Column("order", BigInteger, primary_key=True, autoincrement=False),
    Column("name", String, nullable=False),
    Column("version", String, nullable=False),
    Column("time", Float, nullable=False),
    Column("turn", String, nullable=False),
    Column("why", String, nullable=False),
    Column("request_id", String, unique=True),
)
"""Who was put in charge when, and who was suspended why; rows are only ever added."""

TENANTS: Final = Table(
    "tenants",
    METADATA,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("weight", Float, nullable=False),
    Column("max_concurrent_jobs", BigInteger),
    Column("max_tokens_daily", BigInteger),
    Column("max_vram_mb", BigInteger),
    Column("allowed_models", JSON, nullable=False),
    Column("create_time", Float, nullable=False),
    Column("request_id", String, nullable=False),
)

USAGE: Final = Table(
    "usage",
    METADATA,
    Column("tenant_id", String, primary_key=True),
    Column("day", BigInteger, primary_key=True),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("jobs", BigInteger, nullable=False),
    Column("served", BigInteger, nullable=False, server_default="0"),
)
"""What each tenant used, by days since 1970 UTC; `served` is its counter of fair shares after the day's last job."""
