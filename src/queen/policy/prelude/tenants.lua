-- Helpers about tenants and their quotas. A quota that is not set does not bind.
local helper = rbee.helper

local function tenant_of(id, name)
  if type(id) == "table" then return id end
  return rbee.views.tenants[id] or rbee.note_absent(name, "tenant " .. rbee.shown(id))
end

local function tokens_of(job) return (job.prompt_tokens or 0) + (job.max_tokens or 0) end

-- Returns why a tenant may not have `jobs`, `tokens` and `vram_mb` more; nil when it may.
local function excess(tenant, jobs, tokens, vram_mb)
  local most = tenant.quota_max_concurrent_jobs
  if most and jobs > 0 and (tenant.concurrent_jobs or 0) + jobs > most then
    return ("tenant %s runs %.0f of %.0f jobs"):format(tenant.id, tenant.concurrent_jobs or 0, most)
  end
  local daily = tenant.quota_tokens_daily
  if daily and (tenant.tokens_used_today or 0) + tokens > daily then
    return ("tenant %s has used %.0f of %.0f tokens today"):format(tenant.id, tenant.tokens_used_today or 0, daily)
  end
  local vram = tenant.quota_vram
  if vram and (tenant.quota_used or 0) + vram_mb > vram then
    return ("tenant %s uses %.0f of %.0f MB"):format(tenant.id, tenant.quota_used or 0, vram)
  end
end

-- Declares a helper of a tenant; one that is not known gives nil.
local function of_tenant(name, signature, fn)
  helper("quotas", name, signature, function(id, ...)
    local tenant = tenant_of(id, name)
    if tenant == nil then return nil end
    return fn(tenant, ...)
  end)
end

of_tenant("tenant_over_quota", "string|tenant", function(tenant)
  local why = excess(tenant, 1, 1, 0)
  return why ~= nil, why
end)

local function left(quota, used) return quota and quota - (used or 0) end
of_tenant("tenant_remaining_quota", "string|tenant", function(tenant)
  return {
    vram_mb = left(tenant.quota_vram, tenant.quota_used),
    concurrent_jobs = left(tenant.quota_max_concurrent_jobs, tenant.concurrent_jobs),
    tokens = left(tenant.quota_tokens_daily, tenant.tokens_used_today),
  }
end)

of_tenant("tenant_usage", "string|tenant", function(tenant)
  return {
    vram_mb = tenant.quota_used or 0, concurrent_jobs = tenant.concurrent_jobs or 0,
    tokens = tenant.tokens_used_today or 0,
  }
end)

of_tenant("check_quota", "string|tenant, number", function(tenant, vram_mb)
  local why = excess(tenant, 0, 0, vram_mb)
  return why == nil, why
end)

of_tenant("check_tenant_quota", "string|tenant, job", function(tenant, job)
  local why = excess(tenant, 1, tokens_of(job), 0)
  return why == nil, why
end)

of_tenant("estimate_quota_impact", "string|tenant, job", function(tenant, job)
  return { concurrent_jobs = 1, tokens = tokens_of(job), vram_mb = job.estimated_vram_mb }
end)

-- Weighted tokens a tenant has had, per unit of its weight; one that is not known has had none.
local function served(tenant_id)
  local tenant = rbee.views.tenants[tenant_id or ""]
  return tenant and (tenant.tokens_counter or 0) / tenant.weight or 0
end

-- The least loaded of some workers with a free slot, unless a tenant that has had less waits for one of their models.
helper("quotas", "fair_select", "table, string|tenant", function(workers, tenant)
  local free = rbee.list_methods.filter(workers, rbee.takes_jobs)
  local mine, models = served(rbee.id_of(tenant)), {}
  for i = 1, #free do models[free[i].model_ref or ""] = true end
  local queue = rbee.queue_array
  for i = 1, #queue do
    if models[queue[i].model_ref or ""] and served(queue[i].tenant_id) < mine then return nil end
  end
  return free:least_loaded()
end)
