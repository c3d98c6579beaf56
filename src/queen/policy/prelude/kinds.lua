-- What there is: the fields of jobs, workers, pools, gpus, tenants, models and metrics as policies see them. Memory is in
-- megabytes, times in milliseconds. A field that is not known is nil, never 0.
local rawget, type, setmetatable, pairs = rawget, type, setmetatable, pairs
local state, freeze, kind = rbee.state, rbee.freeze, rbee.kind

local function labels(value) return freeze(value, "labels") end
local function geo(value) return freeze(value, "geo") end
local function user(value) return freeze({ geo = value }, "user") end
local function list(value) return freeze(value, "list") end
local no_labels, no_geo, no_user, no_list = labels({}), geo({}), user({}), list({})

local function now() return state.now_ms or 0 end

-- Returns a function of a row: the time since that in `field`, in units of `unit` milliseconds; nil when there is none.
local function since(field, unit)
  return function(row)
    local at = rawget(row, field)
    if at == nil then return nil end
    return unit and (now() - at) / unit or now() - at
  end
end

local function field(name, default)
  return function(row)
    local value = rawget(row, name)
    if value == nil then return default end
    return value
  end
end

kind("job", {
  fields = [[id tenant_id session_id model type priority seed max_tokens temperature prompt_hash prompt_tokens deadline
    queued_at wait_time_ms retry_count estimated_vram_mb estimated_duration_ms user labels]],
  raw = "order submit_ms deadline_at_ms user_geo session_last_worker prefix_last_worker",
  aliases = { model_ref = "model" },
  nested = { labels = labels, user_geo = user },
  computed = {
    labels = function() return no_labels end,
    user = field("user_geo", no_user),
    queued_at = field("submit_ms"),
    wait_time_ms = since("submit_ms"),
    deadline = function(row)
      local at = rawget(row, "deadline_at_ms")
      return at and at - now()
    end,
    estimated_vram_mb = function(row)
      local model = state.models[row.model]
      return model and model.vram_required_mb
    end,
    estimated_duration_ms = function(row) return rbee.duration(row) end,
  },
})

kind("worker", {
  fields = [[id pool_id status model backend device gpus gpu_ids capability pid group instance cpu_pct rss_mb gpu_util_pct
    vram_mb total_vram_mb vram_free uptime_s slots_total slots_available in_flight jobs_completed avg_tokens_per_sec
    estimated_time idle_ms pinned cost_per_token geo labels]],
  raw = "start_ms idle_since_ms memory_claimed_mb min_residency_until_ms",
  aliases = { hive_id = "pool_id", state = "status", model_ref = "model" },
  nested = { labels = labels, geo = geo, gpu_ids = list },
  computed = {
    labels = function() return no_labels end,
    geo = function() return no_geo end,
    gpu_ids = function() return no_list end,
    gpus = function(row) return #row.gpu_ids end,
    pinned = function() return false end,
    in_flight = function(row)
      local total, free = rawget(row, "slots_total"), rawget(row, "slots_available")
      return total and free and total - free
    end,
    uptime_s = since("start_ms", 1000),
    idle_ms = since("idle_since_ms"),
    vram_free = function(row)
      local total, used = rawget(row, "total_vram_mb"), rawget(row, "vram_mb")
      return total and used and total - used
    end,
    estimated_time = function(row)
      local job = rbee.job_at_hand or rbee.queue_array[1]
      return job and rbee.duration(rbee.row_of(job), row)
    end,
  },
})

kind("gpu", {
  fields = [[id device_name compute_capability vram_total vram_allocated vram_free vram_foreign utilization_percent
    temperature_celsius power_draw_watts]],
  raw = "pool_id backend uuid",
})

local function gpus(rows)
  local views = {}
  for i = 1, #rows do
    local row = rbee.new_row(rbee.kinds.gpu)
    rbee.patch(rbee.kinds.gpu, row, rows[i])
    views[i] = rbee.new_view(rbee.kinds.gpu, row)
  end
  return rbee.shared_list(views)
end
local no_gpus = rbee.shared_list({})

kind("pool", {
  fields = "id status heartbeat_age_ms workers gpus cached_models disk_free_mb ram_free_mb geo labels",
  raw = "last_report_ms ram_total_mb",
  nested = { labels = labels, geo = geo, gpus = gpus, cached_models = list },
  computed = {
    labels = function() return no_labels end,
    geo = function() return no_geo end,
    gpus = function() return no_gpus end,
    cached_models = function() return no_list end,
    heartbeat_age_ms = since("last_report_ms"),
    workers = function(row) return rbee.workers_in_pool(row.id) end,
  },
})

kind("tenant", {
  fields = [[id name quota_vram quota_used quota_max_concurrent_jobs concurrent_jobs quota_tokens_daily tokens_used_today
    weight]],
  raw = "tokens_counter worker_ids",
  nested = { worker_ids = list },
  computed = { weight = function() return 1 end, worker_ids = function() return no_list end },
})

kind("model", {
  fields = "model_ref family size quantization vram_required_mb context_length file_size_bytes",
  raw = "name",
})

-- Metrics: what the queen sends, else counted from the state when asked for.

local function count(rows, holds)
  local n = 0
  for _, row in pairs(rows) do
    if holds(row) then n = n + 1 end
  end
  return n
end
local function of_status(rows, status)
  return function()
    return count(state[rows], function(row) return row.status == status end)
  end
end
local function queued(priority)
  return function()
    local queue, n = rbee.queue_array, 0
    for i = 1, #queue do
      if priority == nil or queue[i].priority == priority then n = n + 1 end
    end
    return n
  end
end
-- Returns a function that adds up (or averages) a field over all GPUs; nil when it is known of none.
local function over_gpus(name, average)
  return function()
    local total, n = 0, 0
    for _, row in pairs(state.pools) do
      local views = rbee.items(row.gpus)
      for i = 1, #views do
        local value = name == nil and 1 or views[i][name]
        if value ~= nil then total, n = total + value, n + 1 end
      end
    end
    if n == 0 and name then return nil end
    return average and total / n or total
  end
end

kind("metrics", {
  fields = [[queue_depth queue_depth_interactive queue_depth_batch avg_wait_time_ms total_workers ready_workers
    busy_workers failed_workers total_pools healthy_pools total_gpus total_vram_mb free_vram_mb avg_gpu_utilization
    jobs_completed_last_minute]],
  computed = {
    queue_depth = queued(),
    queue_depth_interactive = queued("interactive"),
    queue_depth_batch = queued("batch"),
    avg_wait_time_ms = function()
      local queue, total = rbee.queue_array, 0
      for i = 1, #queue do total = total + (queue[i].wait_time_ms or 0) end
      return #queue > 0 and total / #queue or nil
    end,
    total_workers = function() return #rbee.items(rbee.all_workers) end,
    ready_workers = of_status("workers", "ready"),
    busy_workers = of_status("workers", "busy"),
    failed_workers = of_status("workers", "failed"),
    total_pools = function() return #rbee.items(rbee.all_pools) end,
    healthy_pools = of_status("pools", "healthy"),
    total_gpus = over_gpus(),
    total_vram_mb = over_gpus("vram_total"),
    free_vram_mb = over_gpus("vram_free"),
    avg_gpu_utilization = over_gpus("utilization_percent", true),
  },
})

-- Settings are named by whoever runs the queen; one that is not set is nil.
local config = kind("config", { fields = "" })
setmetatable(config.known, { __index = function() return true end })

kind("context", {
  fields = "queue pools hives workers tenants models metrics config now_ms helpers platform_schedule",
})
