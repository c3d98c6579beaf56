-- Multi-modal router: each kind of work has its machines, told by a label. Text goes anywhere else, so that a queue of
-- images never keeps a conversation waiting.

local MACHINES = { -- job.type -> the label its machines carry (rbee hive add --label work=images)
  ["image-gen"] = "images",
  ["embedding"] = "embeddings",
}

local function is_for(pool, purpose) return pool.labels.work == purpose end

function schedule_job(job, pools, workers)
  local purpose = MACHINES[job.type]
  local allowed = pools:available():filter(function(pool) return is_for(pool, purpose) end)
  if allowed:is_empty() then return wait("no healthy machine is labelled work=" .. (purpose or "none")) end

  local mine = workers:with_model(job.model):filter(function(worker)
    return allowed:any(function(pool) return pool.id == worker.pool_id end)
  end)
  local worker = mine:available():least_loaded()
  if worker then return worker end
  if mine:any(function(each) return each.status ~= "failed" end) then return wait("all slots are taken") end

  local pool = allowed:with_model(job.model):with_capacity(job.estimated_vram_mb or 0):first()
  if pool then return start_worker{ model_ref = job.model, pool_id = pool.id, reason = "for " .. job.type } end
  return wait("no machine for " .. job.type .. " has room for " .. job.model)
end
