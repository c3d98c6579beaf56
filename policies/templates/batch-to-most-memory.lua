-- Batch to most memory: batch jobs go where the most memory is free, which leaves the well-filled machines to interactive
-- jobs and gives long contexts room. Interactive jobs are scheduled as usual.

local KEEP_FREE_SLOTS = 1 -- slots of each worker that batch jobs leave for interactive ones

function schedule_job(job, pools, workers)
  if job.priority ~= "batch" then return platform.schedule(context) end

  local all = workers:with_model(job.model)
  if all:is_empty() then return platform.schedule(context) end
  local free = all:available():filter(function(worker)
    return worker.slots_total == 1 or worker.slots_available > KEEP_FREE_SLOTS
  end)
  return free:most_vram_free() or free:least_loaded() or wait("the last slots are for interactive jobs")
end
