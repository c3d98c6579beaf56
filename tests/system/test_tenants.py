"""Tenants over real programs: their shares, their quotas, their usage, and what a job of theirs is told."""

import json
import time

import grpc
import psutil
import pytest

from programs import rbee, running_queen, wait_for
from rbee.v1 import (
    inference_service_pb2,
    inference_service_pb2_grpc,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
    tenant_pb2,
    tenant_service_pb2,
    tenant_service_pb2_grpc,
    worker_service_pb2,
    worker_service_pb2_grpc,
)
from wire import status
from wire.channel import CHANNEL_OPTIONS

MODEL = "synthetic:steady"


@pytest.fixture
def place(tmp_path):
    with (
        running_queen(tmp_path, "--scheduler", "policy") as queen,
        grpc.insecure_channel(queen.address, options=CHANNEL_OPTIONS) as channel,
    ):
        yield queen, channel


def spawn(channel, slots, tokens_per_second, completion_tokens=100):
    worker_service_pb2_grpc.WorkerServiceStub(channel).Spawn(
        worker_service_pb2.WorkerServiceSpawnRequest(
            model=MODEL,
            engine="synthetic",
            slots=slots,
            engine_options={
                "tokens_per_second": str(tokens_per_second),
                "completion_tokens": str(completion_tokens),
                "first_token_ms": "0",
            },
        ),
        timeout=60,
    )


def create(channel, tenant_id, **quota):
    tenant = tenant_pb2.Tenant(id=tenant_id, quota=tenant_pb2.Quota(**quota))
    request = tenant_service_pb2.TenantServiceCreateRequest(request_id=f"r-{tenant_id}", tenant=tenant)
    return tenant_service_pb2_grpc.TenantServiceStub(channel).Create(request, timeout=10).tenant


def usage(channel, tenant_id):
    request = tenant_service_pb2.TenantServiceGetUsageRequest(tenant_id=tenant_id)
    return tenant_service_pb2_grpc.TenantServiceStub(channel).GetUsage(request, timeout=10).usage


def job_of(tenant_id, max_tokens):
    spec = job_pb2.JobSpec(model=MODEL, prompt="hello", tenant_id=tenant_id)
    spec.sampling.max_tokens = max_tokens
    return spec


def hand_in(channel, *specs):
    jobs = [job_service_pb2.JobServiceSubmitRequest(job=spec) for spec in specs]
    request = job_service_pb2.JobServiceSubmitBatchRequest(jobs=jobs)
    answer = job_service_pb2_grpc.JobServiceStub(channel).SubmitBatch(request, timeout=30)
    assert all(one.job_id for one in answer.results), answer
    return [one.job_id for one in answer.results]


def waiting(channel, tenant_id):
    request = job_service_pb2.JobServiceListRequest(states=[job_pb2.JOB_STATE_QUEUED], tenant_id=tenant_id, page_size=1)
    return len(job_service_pb2_grpc.JobServiceStub(channel).List(request, timeout=10).jobs)


def completed(channel):
    request = job_service_pb2.JobServiceListRequest(states=[job_pb2.JOB_STATE_COMPLETE], page_size=1000)
    return job_service_pb2_grpc.JobServiceStub(channel).List(request, timeout=10).jobs


def test_a_tenant_that_sends_ten_times_the_load_gets_no_more_than_its_share(place):
    _, channel = place
    spawn(channel, slots=2, tokens_per_second=400)
    spawn(channel, slots=2, tokens_per_second=400)
    for tenant_id in ("flood", "modest"):
        create(channel, tenant_id)
    # The flood comes first, in jobs of another size: shares are of tokens, not of jobs.
    hand_in(channel, *[job_of("flood", 30) for _ in range(800)])
    hand_in(channel, *[job_of("modest", 20) for _ in range(120)])
    begun = time.time()
    wait_for(lambda: not waiting(channel, "modest"), "the smaller tenant's work is given away", 60)
    assert waiting(channel, "flood"), "both had work queued all the time"
    ended = time.time()
    tokens = {"flood": 0, "modest": 0}
    for job in completed(channel):
        if begun <= job.end_time.ToNanoseconds() / 1e9 <= ended:
            tokens[job.tenant_id] += job.usage.prompt_tokens + job.usage.completion_tokens
    assert min(tokens.values()) > 1000
    assert abs(tokens["flood"] / sum(tokens.values()) - 0.5) <= 0.05, tokens


def test_a_quota_of_jobs_makes_them_wait_and_they_are_told_why(place):
    queen, channel = place
    spawn(channel, slots=4, tokens_per_second=40, completion_tokens=4000)
    create(channel, "lab", max_concurrent_jobs=1)
    first, second = hand_in(channel, job_of("lab", 4000), job_of("lab", 2))
    (other,) = hand_in(channel, job_of("", 1))
    jobs = job_service_pb2_grpc.JobServiceStub(channel)

    def state(job_id):
        return jobs.Get(job_service_pb2.JobServiceGetRequest(job_id=job_id), timeout=10).job.state

    wait_for(lambda: state(other) == job_pb2.JOB_STATE_COMPLETE, "another tenant's job is not held up")
    assert state(first) == job_pb2.JOB_STATE_RUNNING
    assert state(second) == job_pb2.JOB_STATE_QUEUED
    told = rbee(queen, "why", second).stdout
    assert "policy platform" in told
    assert "left it waiting: tenant lab runs 1 of 1 jobs" in told
    assert "it would start at once had tenant lab room for one more running job" in told
    jobs.Cancel(job_service_pb2.JobServiceCancelRequest(job_id=first), timeout=10)
    wait_for(lambda: state(second) == job_pb2.JOB_STATE_COMPLETE, "its turn comes")
    explained = json.loads(rbee(queen, "why", second, "--json").stdout)
    assert [one["action"] for one in explained["decisions"]] == ["DECISION_ACTION_WAIT", "DECISION_ACTION_DISPATCH"]
    assert explained["counterfactual"].endswith("rbee tenant set lab --max-jobs 2")
    assert rbee(queen, "why", "job-none").returncode == 3


def test_tokens_are_counted_once_and_the_day_is_over_when_they_are_used_also_after_a_restart(tmp_path):
    with running_queen(tmp_path, "--scheduler", "policy") as queen:
        with grpc.insecure_channel(queen.address, options=CHANNEL_OPTIONS) as channel:
            spawn(channel, slots=4, tokens_per_second=400)
            create(channel, "lab", max_tokens_daily=100, allowed_models=[MODEL])
            assert create(channel, "lab", max_tokens_daily=100, allowed_models=[MODEL]).id == "lab", "safe to repeat"
            infer(channel, job_of("", 20), tenant_id="lab")
            infer(channel, job_of("lab", 20))
            used = usage(channel, "lab")
            assert (used.completion_tokens, used.jobs) == (40, 2)
            assert used.prompt_tokens > 0
        assert queen.stop() == 0
        queen.start()
        with grpc.insecure_channel(queen.address, options=CHANNEL_OPTIONS) as channel:
            assert usage(channel, "lab") != used, "its end is now"
            assert (usage(channel, "lab").completion_tokens, usage(channel, "lab").jobs) == (40, 2)
            over = refused(channel, job_of("lab", 90))
            assert over.reason == "QUOTA_EXCEEDED"
            assert 0 < over.retry_after_s <= 86_400
            other = job_of("lab", 1)
            other.model = "synthetic:other"
            assert refused(channel, other).reason == "MODEL_NOT_ALLOWED"
            assert refused(channel, job_of("lap", 1)).metadata == {"nearest": "lab"}
            assert refused(channel, job_of("", 1), tenant_id="nobody").reason == "TENANT_NOT_FOUND"
            assert usage(channel, "default").jobs == 0


def test_no_token_is_lost_or_counted_twice_when_worker_and_queen_are_killed(tmp_path):
    with running_queen(tmp_path, "--scheduler", "policy") as queen:
        with grpc.insecure_channel(queen.address, options=CHANNEL_OPTIONS) as channel:
            spawn(channel, slots=4, tokens_per_second=100)
            spawn(channel, slots=4, tokens_per_second=100)
            create(channel, "lab")
            hand_in(channel, *[job_of("lab", 30) for _ in range(40)])
            wait_for(lambda: len(completed(channel)) >= 4, "some have ended")
            (victim, *_) = (
                worker_service_pb2_grpc.WorkerServiceStub(channel)
                .List(worker_service_pb2.WorkerServiceListRequest(), timeout=10)
                .workers
            )
            psutil.Process(victim.pid).kill()
            wait_for(lambda: len(completed(channel)) >= 12, "the others go on")
        queen.kill()
        queen.start()
        with grpc.insecure_channel(queen.address, options=CHANNEL_OPTIONS) as channel:
            wait_for(lambda: len(completed(channel)) == 40, "all have ended", 60)
            used, ended = usage(channel, "lab"), completed(channel)
            assert sum(len(job.attempts) > 1 for job in ended) >= 1, "some were tried again"
            assert used.jobs == 40
            assert used.completion_tokens == sum(job.usage.completion_tokens for job in ended) == 40 * 30
            assert used.prompt_tokens == sum(job.usage.prompt_tokens for job in ended)


def infer(channel, spec, tenant_id=""):
    stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
    metadata = [("x-rbee-tenant", tenant_id)] if tenant_id else []
    return list(stub.Infer(inference_service_pb2.InferRequest(job=spec), timeout=30, metadata=metadata))


def refused(channel, spec, tenant_id=""):
    with pytest.raises(grpc.RpcError) as caught:
        infer(channel, spec, tenant_id)
    return status.from_rpc_error(caught.value)


def test_tenants_are_kept_from_the_command_line(place):
    queen, _ = place
    made = rbee(queen, "tenant", "create", "lab", "--weight", "2", "--max-vram", "24GB", "--max-tokens-daily", "1.5M")
    assert made.returncode == 0
    assert "1,500,000" in made.stdout
    assert rbee(queen, "tenant", "create", "lab").returncode == 1
    assert rbee(queen, "tenant", "create", "Lab!", "--weight", "-1").returncode == 2
    assert rbee(queen, "tenant", "set", "lab", "--max-vram", "lots").returncode == 2
    changed = rbee(queen, "tenant", "set", "lab", "--max-tokens-daily", "none", "--max-jobs", "3", "--json")
    assert json.loads(changed.stdout)["quota"] == {
        "max_concurrent_jobs": 3,
        "max_vram_mb": "24576",
        "allowed_models": [],
    }
    listed = json.loads(rbee(queen, "tenant", "list", "--json").stdout)
    assert [(one["id"], one["weight"]) for one in listed] == [("default", 1.0), ("lab", 2.0)]
    assert json.loads(rbee(queen, "tenant", "show", "lab", "--json").stdout)["usage_today"]["jobs"] == "0"
    assert "did you mean lab" in rbee(queen, "tenant", "show", "labb").stderr
