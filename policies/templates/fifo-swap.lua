-- First in, first out, with swap. Mirrors llama-swap in its default set-up (one model at a time: a request for another
-- model stops the one that runs, once its requests are done, and starts the other) and, with MODELS_MAX above 1, Ollama's
-- OLLAMA_MAX_LOADED_MODELS: requests are taken strictly in order of arrival, and one that needs a swap holds up the rest.

local MODELS_MAX = 1 -- workers per machine

function schedule(context)
  local job = context.queue:sort_by("queued_at"):first()
  local mine = find_workers_by_model(job.model)
  local worker = mine:available():first()
  if worker then return dispatch(job, worker, "next in line") end
  if mine:any(function(each) return each.status ~= "failed" end) then
    return wait("behind " .. job.id .. ", whose model is busy or loading")
  end

  for _, pool in ipairs(context.pools:available():with_model(job.model)) do
    local here = pool.workers:filter(function(each) return each.status ~= "failed" end)
    if here:count() < MODELS_MAX then
      local start = start_worker{ model_ref = job.model, pool_id = pool.id, job = job, reason = "next in line" }
      return batch{ start, wait("behind " .. job.id .. ", whose model is being started") }
    end
    local idle = here:idle():filter(function(each) return not each.pinned end):max_by("idle_ms")
    if idle then
      return batch{ evict(idle, "swapped for " .. job.model), wait("behind " .. job.id .. ", which swaps") }
    end
  end
  return wait("behind " .. job.id .. ", for which no model can be swapped yet")
end
