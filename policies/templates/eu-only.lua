-- EU only: jobs that must stay in a region never leave it. A job says so by its label `region`, or its tenant is listed
-- here. Everything else is scheduled as usual.

local REGION = "eu"
local TENANTS = { hospital = true } -- tenants whose jobs always stay in REGION

local function must_stay(job) return job.labels.region == REGION or TENANTS[job.tenant_id] == true end

function should_admit(job, context)
  if must_stay(job) and not context.pools:any(function(pool) return pool.geo.region == REGION end) then
    return false, "no machine is in " .. REGION
  end
  return true
end

function schedule_job(job, pools, workers)
  if not must_stay(job) then return platform.schedule(context) end

  local inside = workers:with_model(job.model):filter(function(worker)
    local ok = worker.geo.region == REGION
    if not ok then explain(worker, "is not in " .. REGION) end
    return ok
  end)
  local worker = inside:available():least_loaded()
  if worker then return worker end
  if inside:any(function(each) return each.status == "loading" or each.status == "busy" end) then
    return wait("all slots in " .. REGION .. " are taken")
  end

  local pool = pools:available():filter(function(each) return each.geo.region == REGION end)
    :with_model(job.model):with_capacity(job.estimated_vram_mb or 0):first()
  if pool then return start_worker{ model_ref = job.model, pool_id = pool.id, reason = "stays in " .. REGION } end
  return wait("no machine in " .. REGION .. " has room for " .. job.model)
end
