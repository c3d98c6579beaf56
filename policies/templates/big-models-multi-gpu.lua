-- Big models to multi-GPU machines: models above a size go only to machines with several GPUs; small models keep off them
-- while there is another place, so that the big ones find room.

local BIG_MB = 24000 -- memory from which a model is big
local GPUS_MIN = 2

local function is_large(pool) return pool.gpus:count() >= GPUS_MIN end

function schedule_job(job, pools, workers)
  local need = job.estimated_vram_mb or 0
  local big = need >= BIG_MB
  local worker = workers:with_model(job.model):available():least_loaded()
  if worker then return worker end
  if not workers:with_model(job.model):is_empty() then return platform.schedule(context) end -- loading, or all taken

  local holders = pools:available():with_model(job.model)
  local large = holders:filter(is_large)
  local small = holders:filter(function(pool) return not is_large(pool) end):with_capacity(need)
  if big and large:is_empty() then return wait("no healthy machine with several GPUs has " .. job.model) end

  local pool = not big and small:first() or large:with_capacity(need):first()
  if pool then
    return start_worker{ model_ref = job.model, pool_id = pool.id, reason = big and "big model" or "small model" }
  end
  return platform.schedule(context) -- make room
end
