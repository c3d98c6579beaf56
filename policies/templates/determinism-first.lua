-- Determinism first: the same seeded request gives the same answer. Results differ in their last digits between kinds of
-- device, and with what else shares a batch; so a seeded job always goes to the same kind of device, alone on its worker.
-- Jobs without a seed are scheduled as usual, but never beside a seeded one.

local DEVICES = { "cuda", "metal", "rocm", "cpu" } -- the first of these that serves the model is always used

local function reference_workers(workers)
  for _, backend in ipairs(DEVICES) do
    local those = workers:filter(function(worker) return worker.backend == backend end)
    if not those:is_empty() then return those end
  end
  return workers
end

function schedule_job(job, pools, workers)
  if job.seed == nil then return platform.schedule(context) end

  local all = workers:with_model(job.model):online()
  if all:is_empty() then return platform.schedule(context) end
  local same = reference_workers(all)
  -- One and the same worker while it is free, so that its cache is in the same state too.
  local worker = same:idle():sort_by("id"):first()
  return worker or wait("waits to be alone on a " .. (same:first().backend or "known") .. " worker")
end
