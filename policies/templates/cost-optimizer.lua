-- Cost optimiser: the cheapest worker that will do. Batch jobs wait for a cheap one; interactive jobs take what there is.
-- Workers without a price count as free: they are your own machines.

local BATCH_PRICE_MAX = 0.000002 -- most a batch job pays per token
local BATCH_PATIENCE_MS = 30 * 60 * 1000 -- after this long it pays any price

function schedule_job(job, pools, workers)
  local free = workers:with_model(job.model):available()
  if free:is_empty() then return platform.schedule(context) end -- start one, or say why not

  if job.priority == "batch" and job.wait_time_ms < BATCH_PATIENCE_MS then
    free = free:filter(function(worker) return (worker.cost_per_token or 0) <= BATCH_PRICE_MAX end)
    if free:is_empty() then return wait("waits for a cheaper worker") end
  end
  return free:sort_by("in_flight"):min_by(function(worker) return worker.cost_per_token or 0 end)
end
