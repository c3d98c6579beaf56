-- The state: rows as the queen sends them, in indexes that a change patches in place; nothing is ever rebuilt.
local next, error, rawget, insert, remove = next, error, rawget, table.insert, table.remove
local state, kinds, new_row, new_view = rbee.state, rbee.kinds, rbee.new_row, rbee.new_view
local patch, shared_list = rbee.patch, rbee.shared_list

-- Arrays of views in order of their ids.

-- Returns where `id` stands, or where it would be inserted.
local function place_of(array, id)
  local low, high = 1, #array + 1
  while low < high do
    local middle = (low + high) // 2
    if array[middle].id < id then low = middle + 1 else high = middle end
  end
  return low
end

local function add(array, view)
  local id, last = view.id, array[#array]
  if last == nil or last.id < id then
    array[#array + 1] = view -- the usual case: sent in order
  else
    insert(array, place_of(array, id), view)
  end
end

local function drop(array, view)
  local place = place_of(array, view.id)
  if array[place] == view then remove(array, place) end
end

-- One bucket per value of a worker's field: its array and the list over it.
local function buckets(field)
  local made = {}
  return {
    list = function(key)
      local bucket = made[key]
      return bucket and bucket.list or rbee.own_list()
    end,
    move = function(view, before, after)
      local bucket = made[before]
      if bucket then
        drop(bucket.array, view)
        if bucket.array[1] == nil then made[before] = nil end
      end
      if after == nil then return end
      bucket = made[after]
      if bucket == nil then
        bucket = { array = {} }
        bucket.list = shared_list(bucket.array)
        made[after] = bucket
      end
      add(bucket.array, view)
    end,
  }
end

local by_model, by_pool = buckets("model"), buckets("pool_id")
rbee.workers_with_model, rbee.workers_in_pool = by_model.list, by_pool.list

local kind_of_rows = {
  jobs = kinds.job, workers = kinds.worker, pools = kinds.pool, tenants = kinds.tenant, models = kinds.model,
}
local arrays, views = {}, {}
for rows in next, kind_of_rows do
  arrays[rows], views[rows] = {}, {}
end
rbee.views = views
for rows, array in next, arrays do rbee["all_" .. rows] = shared_list(array, views[rows]) end

for _, name in next, { "metrics", "config" } do
  state[name] = new_row(kinds[name])
  rbee[name .. "_view"] = new_view(kinds[name], state[name])
end

local function put(rows, id, changes)
  local kind, row = kind_of_rows[rows], state[rows][id]
  local new = row == nil
  if new then
    row = new_row(kind)
    state[rows][id] = row
    row.id = id
    if rows == "models" then row.model_ref = id end
    views[rows][id] = new_view(kind, row)
  end
  local view = views[rows][id]
  if rows ~= "workers" then
    patch(kind, row, changes)
  else
    local model, pool = row.model, row.pool_id
    patch(kind, row, changes)
    if row.model ~= model then by_model.move(view, model, row.model) end
    if row.pool_id ~= pool then by_pool.move(view, pool, row.pool_id) end
  end
  if new and rows ~= "jobs" then add(arrays[rows], view) end
end

-- Merges fields into a row, made if it is new; names in `changes.__absent` become nil. In order of ids it is quickest.
function rbee_put(rows, id, changes)
  if rows == "metrics" or rows == "config" then
    patch(kinds[rows], state[rows], changes)
  elseif kind_of_rows[rows] then
    put(rows, id, changes)
  else
    error("there are no rows called " .. rbee.shown(rows), 2)
  end
end

function rbee_remove(rows, id)
  local view = views[rows][id]
  if view == nil then return end
  if rows == "workers" then
    local row = state.workers[id]
    by_model.move(view, row.model, nil)
    by_pool.move(view, row.pool_id, nil)
  end
  if rows ~= "jobs" then drop(arrays[rows], view) end
  state[rows][id], views[rows][id] = nil, nil
end

-- The queue: ids as sent, and the views of those jobs that are known.

rbee.queue_array = {}
rbee.queue_list = shared_list(rbee.queue_array)

function rbee_queue(ids)
  local array, n = rbee.queue_array, 0
  state.queue = ids
  for i = 1, #ids do
    local view = views.jobs[ids[i]]
    if view then
      n = n + 1
      array[n] = view
    end
  end
  for i = #array, n + 1, -1 do array[i] = nil end
end

-- Promises: what this cycle has decided is seen by what it decides next, and taken back when the cycle ends; the queen
-- sends the truth once the decisions have taken effect.

local kept, kept_n = {}, 0

local function promise(kind, row, field, value)
  kept[kept_n + 1], kept[kept_n + 2], kept[kept_n + 3], kept[kept_n + 4] = kind, row, field, rawget(row, field)
  kept_n = kept_n + 4
  row[field] = value
  local alias = kind.second_name[field]
  if alias then row[alias] = value end
end

function rbee.promise_slot(worker_id, job)
  local row, kind = state.workers[worker_id], kinds.worker
  if row then
    local free = (row.slots_available or 1) - 1
    promise(kind, row, "in_flight", (row.in_flight or 0) + 1)
    promise(kind, row, "slots_available", free)
    promise(kind, row, "idle_since_ms", nil)
    if free <= 0 and row.status == "ready" then promise(kind, row, "status", "busy") end
  end
  local tenant = state.tenants[job.tenant_id or ""]
  if tenant then
    promise(kinds.tenant, tenant, "concurrent_jobs", (tenant.concurrent_jobs or 0) + 1)
    promise(kinds.tenant, tenant, "tokens_counter", (tenant.tokens_counter or 0) + rbee.expected_cost(job))
  end
end

function rbee.promise_eviction(worker_id)
  local row = state.workers[worker_id]
  if row then promise(kinds.worker, row, "status", "draining") end
end

-- A worker that is to be started is seen as one that loads, its memory as taken.
local starting, starts = {}, 0
function rbee.promise_start(model_ref, pool_id, gpu_id)
  starts = starts + 1
  local id = "starting-" .. starts
  local model, pool = state.models[model_ref], views.pools[pool_id]
  local need = model and model.vram_required_mb or nil
  put("workers", id, { model = model_ref, pool_id = pool_id, status = "loading", slots_total = 0, slots_available = 0,
    in_flight = 0, memory_claimed_mb = need })
  starting[starts] = id
  if pool == nil or need == nil then return end
  local gpu = gpu_id and pool.gpus:get(gpu_id) or pool.gpus:max_by("vram_free")
  local row, field = gpu and rbee.row_of(gpu) or state.pools[pool_id], gpu and "vram_free" or "ram_free_mb"
  local kind = gpu and kinds.gpu or kinds.pool
  if rawget(row, field) then promise(kind, row, field, row[field] - need) end
end

function rbee.take_back_promises()
  for i = kept_n - 3, 1, -4 do
    local row, field, value = kept[i + 1], kept[i + 2], kept[i + 3]
    row[field] = value
    local alias = kept[i].second_name[field]
    if alias then row[alias] = value end
  end
  if kept_n > 0 then kept, kept_n = {}, 0 end
  for i = 1, starts do rbee_remove("workers", starting[i]) end
  if starts > 0 then starting, starts = {}, 0 end
end
