"""YAML and Lua written by hand decide alike on the same clusters."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policy.yaml.random_clusters import clusters
from queen.policy import yaml_compiler
from queen.policy.language import Program

PLATFORM = (Path(__file__).parents[3] / "policies" / "platform.lua").read_text()

PAIRS = {
    "dispatch": (
        """
rules:
  - name: small
    condition: {job.seed: {exists: true}}
    action: {dispatch: {worker_selection: least-loaded}}
    priority: 1
  - {name: late, condition: {job.deadline: {lt: 30s}, model_contains: 70b}, action: {reject: {reason: too late}}}
  - {name: first, condition: {priority: interactive}, action: {dispatch: {worker_selection: first}}, priority: 2}
  - {name: rest, condition: always, action: {wait: {duration_ms: 2s}}}
""",
        """
function schedule_job(job)
  local free, load = {}, {}
  for _, worker in ipairs(context.workers) do
    if worker.model == job.model and worker.status == "ready" and worker.slots_available > 0 then
      free[#free + 1] = worker
    end
  end
  if job.priority == "interactive" and free[1] then return dispatch(job, free[1], "first") end
  if job.seed then
    local best
    for _, worker in ipairs(free) do
      if not best or worker.in_flight / worker.slots_total < best.in_flight / best.slots_total then best = worker end
    end
    if best then return dispatch(job, best, "small") end
  end
  if job.deadline and job.deadline < 30000 and job.model:find("70b", 1, true) then return reject("too late") end
  return { action = "wait", reason = "rest", retry_after_ms = 2000 }
end
""",
    ),
    "workers and pools": (
        """
rules:
  - name: inside
    condition: {worker.geo.region: {starts_with: eu}, pool.status: {ne: offline}, job.labels.team-x: [a, b]}
    action: {dispatch: {worker_selection: most-vram-free}}
  - name: several
    condition: {not: {worker.backend: cpu}}
    action: {select: "workers.filter(gpus > 1 and vram_free >= 8GB).max_by(jobs_completed) or workers.last()"}
  - name: none at all
    condition: not workers.any(model == job.model) and job.priority in ["batch"]
    action: {reject: {reason: no worker}}
""",
        """
local function region_is_eu(worker) return worker.geo.region ~= nil and worker.geo.region:sub(1, 2) == "eu" end
function schedule_job(job, pools, workers)
  local status = {}
  for _, pool in ipairs(pools) do status[pool.id] = pool.status end
  local any, inside, several, most, last = false, nil, {}, nil, nil
  for _, worker in ipairs(workers) do
    if worker.model == job.model then
      any = true
      if worker.status == "ready" and worker.slots_available > 0 then
        local team = job.labels["team-x"]
        local there = status[worker.pool_id] and status[worker.pool_id] ~= "offline"
        if (team == "a" or team == "b") and region_is_eu(worker) and there and worker.vram_free then
          if not inside or worker.vram_free > inside.vram_free then inside = worker end
        end
        if worker.backend ~= "cpu" then
          last = worker
          if #worker.gpu_ids > 1 and (worker.vram_free or 0) >= 8192 and worker.jobs_completed then
            if not most or worker.jobs_completed > most.jobs_completed then most = worker end
          end
        end
      end
    end
  end
  if inside then return dispatch(job, inside, "inside") end
  if most or last then return dispatch(job, most or last, "several") end
  if not any and job.priority == "batch" then return reject("no worker") end
end
""",
    ),
    "starts and evictions": (
        """
rules:
  - {name: run, condition: {model_matches: "hf:*-*b"}, action: {dispatch: {worker_selection: cheapest}}}
  - {name: start, condition: {pool.ram_free_mb: {gt: 4GB}}, action: start_worker}
  - {name: old, condition: {worker.idle_ms: {gt: 5min}, worker.model: {ne: "file:/m/phi.gguf"}}, action: evict}
  - name: usual
    condition: {tenant.weight: {ge: 1}, model.vram_required_mb: {le: 32GB}}
    action: {use: platform-scheduler}
""",
        """
function schedule_job(job, pools, workers)
  local cheapest, loading
  for _, worker in ipairs(workers) do
    if worker.model == job.model then
      loading = loading or worker.status == "loading"
      if worker.status == "ready" and worker.slots_available > 0 and worker.cost_per_token then
        if not cheapest or worker.cost_per_token < cheapest.cost_per_token then cheapest = worker end
      end
    end
  end
  if cheapest and job.model:find("^hf:.*%-.*b$") then return dispatch(job, cheapest, "run") end
  for _, pool in ipairs(pools) do
    local has, free = false, pool.ram_free_mb
    for _, ref in ipairs(pool.cached_models) do has = has or ref == job.model end
    if pool.gpus[1] then
      free = nil
      for _, gpu in ipairs(pool.gpus) do
        if gpu.vram_free and (not free or gpu.vram_free > free) then free = gpu.vram_free end
      end
    end
    local room = free and free >= (job.estimated_vram_mb or 0)
    if not loading and pool.status == "healthy" and has and room and (pool.ram_free_mb or 0) > 4096 then
      return start_worker{ model_ref = job.model, pool_id = pool.id, reason = "start" }
    end
  end
  local oldest
  for _, worker in ipairs(workers) do
    local idle = worker.status == "ready" and worker.in_flight == 0 and worker.idle_ms
    local stays = worker.pinned or (worker.min_residency_until_ms or 0) > now()
    if idle and idle > 300000 and worker.model ~= "file:/m/phi.gguf" and not stays then
      if not oldest or idle > oldest.idle_ms then oldest = worker end
    end
  end
  if oldest then return evict(oldest, "old") end
  for _, tenant in ipairs(context.tenants) do
    if tenant.id == job.tenant_id and tenant.weight >= 1 then
      for _, model in ipairs(context.models) do
        if model.model_ref == job.model and model.vram_required_mb and model.vram_required_mb <= 32768 then
          return context.platform_schedule(context)
        end
      end
    end
  end
end
""",
    ),
}


def decisions(source, cluster, seed):
    program = Program()
    assert program.load_platform(PLATFORM) is None
    assert program.load(source, "policy.lua") is None
    cluster.fill(program)
    outcome = program.decide(cluster.now_ms, seed, 5000)
    assert outcome.error is None
    assert outcome.undecided == 0
    return outcome.decisions


@pytest.mark.parametrize(("written", "by_hand"), PAIRS.values(), ids=PAIRS)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(cluster=clusters, seed=st.integers(0, 2**31))
def test_yaml_decides_as_lua_written_by_hand(written, by_hand, cluster, seed):
    compiled = yaml_compiler.compile(written, "policy.yaml")
    assert compiled.problems == ()
    assert decisions(compiled.lua, cluster, seed) == decisions(by_hand, cluster, seed)
