-- Helpers about workers.
local helper, workers_with_model = rbee.helper, rbee.workers_with_model

-- Returns the reference a model argument means.
function rbee.ref_of(model) return type(model) == "table" and model.model_ref or model end
-- Returns the id an argument means: of a view, or the string itself.
function rbee.id_of(thing) return type(thing) == "table" and thing.id or thing end
local ref_of, id_of = rbee.ref_of, rbee.id_of

local function takes_jobs(worker) return worker.status == "ready" and (worker.slots_available or 0) > 0 end
rbee.takes_jobs = takes_jobs

-- Returns the workers with a model and a free slot, of one pool if it is given.
local function free(model, pool)
  local id = id_of(pool)
  return workers_with_model(ref_of(model)):filter(function(worker)
    return takes_jobs(worker) and (id == nil or worker.pool_id == id)
  end)
end

-- Fewest jobs per slot first, then most free memory, then id.
local function better(a, b)
  if b == nil then return true end
  local la, lb = a.in_flight / (a.slots_total or 1), b.in_flight / (b.slots_total or 1)
  if la ~= lb then return la < lb end
  local va, vb = a.vram_free or 0, b.vram_free or 0
  if va ~= vb then return va > vb end
  return a.id < b.id
end

helper("workers", "find_worker", "string|model, string|pool?", function(model, pool)
  local id, list = id_of(pool), rbee.items(workers_with_model(ref_of(model)))
  for i = 1, #list do
    if takes_jobs(list[i]) and (id == nil or list[i].pool_id == id) then return list[i] end
  end
  return nil
end)

helper("workers", "find_ready_worker", "string|model", function(model) return rbee.api.find_worker(model) end)

helper("workers", "find_best_worker", "table, string|model", function(pools, model)
  local ref, best = ref_of(model), nil
  local list = rbee.items(pools)
  for i = 1, #list do
    local workers = rbee.items(list[i].workers)
    for j = 1, #workers do
      local worker = workers[j]
      if worker.model_ref == ref and takes_jobs(worker) and better(worker, best) then best = worker end
    end
  end
  return best
end)

helper("workers", "find_least_loaded_worker", "string|model, string|pool?", function(model, pool)
  return free(model, pool):least_loaded()
end)

helper("workers", "find_most_vram_free_worker", "string|model", function(model) return free(model):most_vram_free() end)
rbee.alias("find_worker_most_vram_free", "find_most_vram_free_worker")

helper("workers", "find_worker_round_robin", "string|model", function(model) return free(model):round_robin() end)

helper("workers", "filter_workers", "function", function(fn) return rbee.all_workers:filter(fn) end)

helper("workers", "get_all_workers", "", function() return rbee.all_workers end)

helper("workers", "find_workers_by_model", "string|model", function(model) return workers_with_model(ref_of(model)) end)
