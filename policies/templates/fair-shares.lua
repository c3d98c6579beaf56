-- Fair shares: each tenant gets slots by its weight, whoever asks most. The tenant that has had the fewest tokens for its
-- weight is served next; a tenant at its limit of concurrent jobs waits. (The platform policy does this too, and more;
-- this is the idea in few lines.)

local JOBS_PER_TENANT = 8 -- most jobs of one tenant at once, whatever its quota; nil for no limit

local function served(tenant) return (tenant.tokens_counter or 0) / tenant.weight end

function schedule(context)
  local had = {} -- tenant -> tokens, those of this cycle included
  for _, tenant in ipairs(context.tenants) do had[tenant.id] = served(tenant) end

  -- Each call decides one job: the first in the queue, of the tenant served least, that can be placed.
  local order = context.queue:sort_by(function(job) return had[job.tenant_id] or 0 end)
  for _, job in ipairs(order) do
    local tenant = context.tenants:get(job.tenant_id)
    local running = tenant and tenant.concurrent_jobs or 0
    local within = tenant == nil or check_tenant_quota(tenant, job)
    if within and (JOBS_PER_TENANT == nil or running < JOBS_PER_TENANT) then
      local worker = find_least_loaded_worker(job.model)
      if worker then return dispatch(job, worker, "tenant served least") end
    end
  end
  return platform.schedule(context) -- nothing to place: start, evict, or say why each waits
end
