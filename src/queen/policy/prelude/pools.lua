-- Helpers about pools (a pool is a hive: one machine) and their GPUs.
local helper, id_of, ref_of = rbee.helper, rbee.id_of, rbee.ref_of

local function pool_of(pool, name)
  local view = rbee.views.pools[id_of(pool)]
  return view or rbee.note_absent(name, "pool " .. rbee.shown(id_of(pool)))
end

-- Returns the free memory of a pool's roomiest GPU, of its RAM when it has none, MB; nil when that is not known.
function rbee.pool_vram_free(pool)
  local gpus = rbee.items(pool.gpus)
  if gpus[1] == nil then return pool.ram_free_mb end
  local most
  for i = 1, #gpus do
    local free = gpus[i].vram_free
    if free and (most == nil or free > most) then most = free end
  end
  return most
end

helper("pools", "get_pool", "string|pool", function(id) return pool_of(id, "get_pool") end)

helper("pools", "find_pools_with_capacity", "number", function(vram_mb) return rbee.all_pools:with_capacity(vram_mb) end)

helper("pools", "is_pool_healthy", "string|pool", function(id)
  local pool = rbee.views.pools[id_of(id)]
  return pool ~= nil and pool.status == "healthy"
end)

-- Share of the slots of a pool's workers that are taken, 0 to 1.
helper("pools", "get_pool_utilization", "string|pool", function(id)
  local pool = pool_of(id, "get_pool_utilization")
  if pool == nil then return nil end
  local slots, jobs = 0, 0
  local workers = rbee.items(pool.workers)
  for i = 1, #workers do
    slots, jobs = slots + (workers[i].slots_total or 0), jobs + (workers[i].in_flight or 0)
  end
  return slots > 0 and jobs / slots or 0
end)

helper("pools", "filter_pools", "function", function(fn) return rbee.all_pools:filter(fn) end)

-- GPUs. An id such as "gpu0" is unique in its pool only; "mill/gpu0" names one of all.

local function gpu_of(id, name)
  if type(id) == "table" then return id end
  local pool_id, rest = id:match("^(.-)/(.+)$")
  local pools = rbee.items(rbee.all_pools)
  for i = 1, #pools do
    local gpu = pools[i].gpus:get(pools[i].id == pool_id and rest or id)
    if gpu then return gpu end
  end
  return rbee.note_absent(name, "GPU " .. rbee.shown(id))
end

local function gpu_field(name, field)
  helper("gpus", name, "string|gpu", function(id)
    local gpu = gpu_of(id, name)
    return gpu and gpu[field]
  end)
end
gpu_field("gpu_vram_total", "vram_total")
gpu_field("gpu_vram_free", "vram_free")
gpu_field("gpu_device_name", "device_name")

helper("gpus", "get_gpu", "string|pool, string", function(pool, id)
  local found = pool_of(pool, "get_gpu")
  return found and found.gpus:get(id)
end)

helper("gpus", "find_gpus_with_vram", "number", function(mb)
  local out, n = rbee.own_list(), 0
  local pools = rbee.items(rbee.all_pools)
  for i = 1, #pools do
    local gpus = rbee.items(pools[i].gpus)
    for j = 1, #gpus do
      local free = gpus[j].vram_free
      if free and free >= mb then
        n = n + 1
        out[n] = gpus[j]
      end
    end
  end
  return out
end)

-- Returns whether a GPU could ever hold a model, and why not.
helper("gpus", "check_gpu_compatibility", "string|gpu, string|model", function(id, model)
  local gpu, need = gpu_of(id, "check_gpu_compatibility"), rbee.api.model_vram_required(model)
  if gpu == nil or need == nil or gpu.vram_total == nil then return nil end
  if gpu.vram_total < need then return false, ("needs %.0f MB, has %.0f MB"):format(need, gpu.vram_total) end
  return true
end)

-- Tokens per second of a model on GPUs of one name, as measured on the workers that run it there.
helper("gpus", "estimate_performance", "string|model, string|gpu", function(model, id)
  local gpu = gpu_of(id, "estimate_performance")
  if gpu == nil then return nil end
  local total, n = 0, 0
  local workers = rbee.items(rbee.workers_with_model(ref_of(model)))
  for i = 1, #workers do
    local worker = workers[i]
    local pool = rbee.views.pools[worker.pool_id or ""]
    local its = pool and worker.gpu_ids[1] and pool.gpus:get(worker.gpu_ids[1])
    if its and its.device_name == gpu.device_name and worker.avg_tokens_per_sec then
      total, n = total + worker.avg_tokens_per_sec, n + 1
    end
  end
  if n > 0 then return total / n end
  return rbee.note_absent("estimate_performance", "the speed of " .. rbee.shown(ref_of(model)) .. " on that GPU")
end)
