-- Latency by distance: interactive jobs go to the nearest worker whose machine is not full; a machine far away is better
-- than waiting. Needs `geo` on hives (rbee hive add --geo) and on the job's user.

local NEAR_KM = 1000 -- within this distance the least loaded worker is better than the nearest

function schedule_job(job, pools, workers)
  local free = workers:with_model(job.model):available()
  if free:is_empty() then return platform.schedule(context) end

  local here = job.user.geo
  if here.latitude == nil or job.priority == "batch" then return free:least_loaded() end

  local near = free:filter(function(worker)
    local km = distance(here.latitude, here.longitude, worker.geo.latitude, worker.geo.longitude)
    explain(worker, km and -km or "nobody knows where it is")
    return km ~= nil and km <= NEAR_KM
  end)
  return near:least_loaded() or free:nearest(here) or free:least_loaded()
end
