-- Helpers about eviction: stopping a worker to make room for another model.
local helper, id_of = rbee.helper, rbee.id_of

-- Whether a worker may be stopped: it serves, runs nothing, is not pinned, and has been there long enough.
local function evictable(worker)
  if worker.status ~= "ready" or (worker.in_flight or 0) > 0 or worker.pinned then return false end
  local stays_until = worker.min_residency_until_ms
  return stays_until == nil or stays_until <= rbee.state.now_ms
end

-- Returns the evictable worker with the lowest key, of one pool if it is given; of equals the lowest id.
local function lowest(pool, key)
  local list = pool and rbee.workers_in_pool(id_of(pool)) or rbee.all_workers
  local workers, best, best_key = rbee.items(list), nil, nil
  for i = 1, #workers do
    if evictable(workers[i]) then
      local its = key(workers[i])
      if best == nil or its < best_key then best, best_key = workers[i], its end
    end
  end
  return best
end

-- When a worker was last of use: its last job's end, else its start.
local function last_used(worker) return worker.idle_since_ms or worker.start_ms or 0 end

helper("eviction", "find_worker_to_evict_lru", "string|pool?", function(pool) return lowest(pool, last_used) end)

helper("eviction", "find_worker_to_evict_lfu", "string|pool?", function(pool)
  return lowest(pool, function(worker) return worker.jobs_completed or 0 end)
end)

-- Whether a queued job's model has no worker, does not fit into what a pool has free, and something could go.
helper("eviction", "should_evict", "string|pool", function(id)
  local pool = rbee.views.pools[id_of(id)]
  if pool == nil or lowest(pool, last_used) == nil then return false end
  local free, queue = rbee.pool_vram_free(pool), rbee.queue_array
  for i = 1, #queue do
    local need = queue[i].estimated_vram_mb
    if need and free and need > free and rbee.workers_with_model(queue[i].model_ref):is_empty() then return true end
  end
  return false
end)

helper("eviction", "find_model_to_evict", "string|pool", function(pool)
  local worker = lowest(pool, last_used)
  return worker and worker.model_ref
end)
