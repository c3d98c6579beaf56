-- everything 0.3, compiled from everything.yaml. Change that file, not this text.
-- What conditions and actions can say,
-- each in a rule.

-- Whether a value is one of these.
local function one_of(value, list)
  for _, each in ipairs(list) do
    if value == each then return true end
  end
  return false
end

-- Whether a list has this item.
local function has_item(list, item)
  for _, each in ipairs(list) do
    if each == item then return true end
  end
  return false
end

-- Whether a text is these pieces in this order, with anything between them.
local function matches(text, pieces)
  local first, last = pieces[1], pieces[#pieces]
  if #text < #first + #last or string.sub(text, 1, #first) ~= first then return false end
  local from, to = #first + 1, #text - #last
  if string.sub(text, to + 1) ~= last then return false end
  for index = 2, #pieces - 1 do
    local _, found = string.find(text, pieces[index], from, true)
    if not found or found > to then return false end
    from = found + 1
  end
  return true
end

-- Minutes since midnight, at UTC-05:30.
local function minute_of_day()
  return (now() // 60000 - 330) % 1440
end

-- The day of the week, at UTC-05:30; 1970-01-01 was a Thursday.
local function day_of_week()
  local days = { "thu", "fri", "sat", "sun", "mon", "tue", "wed" }
  return days[(now() // 60000 - 330) // 1440 % 7 + 1]
end

-- Whether an idle worker may be evicted: it is not pinned and has been there long enough.
local function may_go(worker)
  return not worker.pinned and (worker.min_residency_until_ms or 0) <= now()
end

local function is_loading(worker)
  return worker.status == "loading"
end

function schedule_job(job, pools, workers)
  local tenant = context.tenants:get(job.tenant_id) or {}
  local model = get_model(job.model) or {}

  -- first of all (line 7, priority 7)
  if minute_of_day() >= 9 * 60 and minute_of_day() < 17 * 60 + 30 and one_of(day_of_week(), { "mon", "tue", "wed", "fri" })
    or (minute_of_day() >= 22 * 60 or minute_of_day() < 6 * 60)
    or not one_of(day_of_week(), { "sun" })
  then
    return wait("say \"later\"", 90000)
  end

  -- metrics and tenants (line 16)
  if context.metrics.queue_depth > 10
    and context.metrics.queue_depth <= 20
    and tenant.weight
    and tenant.weight > 1
    and context.metrics.free_vram_mb
    and context.metrics.free_vram_mb < 1024
  then
    return reject("too much")
  end

  -- the model (line 19)
  if model.file_size_bytes
    and model.file_size_bytes >= 4294967296
    and one_of(model.family, { "llama", "qwen" })
    and matches(job.model, { "hf:", "/", "-gguf" })
  then
    local pool = pools
      :available()
      :with_model("hf:a/b")
      :with_capacity(model_vram_required("hf:a/b") or 0)
      :get("mill")
    if pool and not workers:with_model("hf:a/b"):any(is_loading) then
      return start_worker{ model_ref = "hf:a/b", pool_id = pool.id, gpu_id = "gpu0", reason = "the model" }
    end
  end

  -- labels (line 22)
  if job.labels["team-x"] == "blue"
    and job.user.geo.region
    and string_starts_with(job.user.geo.region, "eu")
    and job.deadline
    and job.deadline < 30000
  then
    local worker = workers:available():nearest(job.user.geo)
    if worker then return dispatch(job, worker, "labels") end
  end

  -- each worker, and its pool (line 25)
  if job.priority == "batch" then
    local function fits(worker)
      local pool = get_pool(worker.pool_id)
      return pool
        and worker.uptime_s
        and worker.uptime_s > 7200
        and has_item(pool.cached_models, "phi")
        and has_item(worker.gpu_ids, "gpu0")
    end
    local worker = workers:with_model(job.model):available():filter(fits):round_robin()
    if worker then return dispatch(job, worker, "each worker, and its pool") end
  end

  -- each pool (line 28)
  do
    local function fits(pool)
      return pool.status ~= "healthy" and one_of(pool.labels.rack, { "a", "b" })
    end
    if pools:any(fits) then
      return wait("each pool")
    end
  end

  -- where there is room (line 31)
  if job.estimated_vram_mb ~= nil then
    local function fits(pool)
      return pool.ram_free_mb and pool.ram_free_mb > 65536
    end
    local pool = pools
      :available()
      :with_model(job.model)
      :with_capacity(job.estimated_vram_mb or 0)
      :filter(fits)
      :first()
    if pool and not workers:with_model(job.model):any(is_loading) then
      return start_worker{ model_ref = job.model, pool_id = pool.id, reason = "where there is room" }
    end
  end

  -- make room (line 34)
  if not workers:any(function(worker) return worker.model == job.model end)
    and context.metrics.total_gpus >= 2
  then
    local worker = find_worker_to_evict_lfu()
    if worker then return evict(worker, "make room") end
  end

  -- not that one (line 37)
  do
    local function fits(worker)
      return one_of(worker.id, { "w1", "w2" }) and worker.pinned == false
    end
    local worker = workers:idle():filter(may_go):filter(fits):max_by("idle_ms")
    if worker then return evict(worker, "not that one") end
  end

  -- this one (line 40)
  if pools:filter(function(pool)
    return pool.gpus:any(function(gpu) return gpu.vram_free and gpu.vram_free > 20480 end)
  end):is_empty()
    or one_of(job.type, { "embedding", "rerank" })
  then
    local worker = workers:idle():filter(may_go):get("w9")
    if worker then return evict(worker, "this one") end
  end

  -- chains (line 43)
  do
    local function fits(worker)
      local pool = get_pool(worker.pool_id)
      return pool
        and worker.status == "ready"
        and worker.geo.region ~= nil
        and has_item(pool.cached_models, job.model)
    end
    local candidates = workers:with_model(job.model):available():filter(fits)
    local worker = candidates:with_capacity(8192):with_label("tier", "gold")
      :in_pool("mill"):sort_by("cost_per_token"):filter(function(worker)
      return worker.device
        and string_contains(worker.device, "H100")
        and job.labels.team == worker.labels.team
    end):min_by("idle_ms")
    if worker then return dispatch(job, worker, "chains") end
  end

  -- the end (line 49)
  do
    return platform.schedule(context)
  end
end
