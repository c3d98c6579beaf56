-- Weighted scoring: every candidate gets a score between 0 and 1 from each scorer, the weighted sum decides, ties by id.
-- Mirrors the endpoint picker of the Gateway API inference extension and llm-d's scheduler: filter, score, pick the
-- highest, with scorers for queue depth, KV-cache use and prefix cache. Here load stands for queue depth and KV cache,
-- since a slot is a KV cache; the prefix scorer knows where the prompt's beginning was last seen.

local WEIGHTS = { load = 2, memory = 1, prefix = 3, session = 3, speed = 1 }

local function share(value, most) return most and most > 0 and (value or 0) / most or 0 end

function schedule_job(job, pools, workers)
  local free = workers:with_model(job.model):available()
  if free:is_empty() then return platform.schedule(context) end

  local most_memory, fastest = 0, 0
  for _, worker in ipairs(free) do
    most_memory = math.max(most_memory, worker.vram_free or 0)
    fastest = math.max(fastest, worker.avg_tokens_per_sec or 0)
  end

  return free:max_by(function(worker)
    local score = WEIGHTS.load * (1 - worker.in_flight / worker.slots_total)
      + WEIGHTS.memory * share(worker.vram_free, most_memory)
      + WEIGHTS.speed * share(worker.avg_tokens_per_sec, fastest)
      + (worker.id == job.prefix_last_worker and WEIGHTS.prefix or 0)
      + (worker.id == job.session_last_worker and WEIGHTS.session or 0)
    explain(worker, score)
    return score
  end)
end
