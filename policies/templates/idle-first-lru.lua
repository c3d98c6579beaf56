-- Idle first, least recently used goes. Mirrors Ollama's scheduler: a loaded model is used at once; otherwise it is loaded
-- where it fits; otherwise an idle runner is unloaded, the one closest to its end of keep-alive, which with one
-- OLLAMA_KEEP_ALIVE for all is the least recently used. Places are chosen as GPUStack's `spread` does: most free first.

local KEEP_ALIVE_MS = 5 * 60 * 1000 -- idle workers go after this long (Ollama's default); nil to keep them

local function may_go(worker) return not worker.pinned and (worker.min_residency_until_ms or 0) <= now() end

function schedule_job(job, pools, workers)
  local mine = workers:with_model(job.model)
  local worker = mine:idle():first() or mine:available():least_loaded()
  if worker then return worker end
  if mine:any(function(each) return each.status == "loading" or each.status == "busy" end) then
    return wait("its model is busy or loading")
  end

  local need = job.estimated_vram_mb or 0
  local holders = pools:available():with_model(job.model)
  local place = holders:with_capacity(need):max_by(function(pool) return find_most_free(pool) end)
    or holders:with_capacity(need):first()
  if place then return start_worker{ model_ref = job.model, pool_id = place.id, reason = "fits" } end

  for _, pool in ipairs(holders) do
    if pool.workers:any(function(each) return each.status == "draining" end) then return wait("room is being made") end
    local victim = pool.workers:idle():filter(may_go):max_by("idle_ms")
    if victim then return evict(victim, "least recently used; makes room for " .. job.model) end
  end
  return wait("no idle worker can make room")
end

function find_most_free(pool)
  local roomiest = pool.gpus:most_vram_free()
  return roomiest and roomiest.vram_free or pool.ram_free_mb
end

function on_idle(context)
  if KEEP_ALIVE_MS == nil then return nil end
  local decisions, soonest = {}, nil
  for _, worker in ipairs(context.workers:idle():filter(may_go)) do
    local left = KEEP_ALIVE_MS - (worker.idle_ms or 0)
    if left <= 0 then
      decisions[#decisions + 1] = evict(worker, "idle beyond keep-alive")
    elseif soonest == nil or left < soonest then
      soonest = left
    end
  end
  -- Nothing happens when a keep-alive ends, so ask to be asked then.
  if soonest then decisions[#decisions + 1] = wait("until the next keep-alive ends", soonest) end
  return batch(decisions)
end
