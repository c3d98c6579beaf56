-- Business hours and night batch: by day batch jobs use at most a share of the slots; at night and at weekends all.

local UTC_OFFSET_H = 1 -- hours your clock is ahead of UTC
local OPENS, CLOSES = 8, 18 -- full hours
local BATCH_SHARE = 0.25 -- of a model's slots, by day

local function is_open()
  local hours = now() // 3600000 + UTC_OFFSET_H
  local weekday = (hours // 24 + 4) % 7 -- 1970-01-01 was a Thursday; 0 is Sunday
  local hour = hours % 24
  return weekday >= 1 and weekday <= 5 and hour >= OPENS and hour < CLOSES
end

function schedule_job(job, pools, workers)
  if job.priority == "batch" and is_open() then
    local slots, taken = 0, 0
    for _, worker in ipairs(workers:with_model(job.model):online()) do
      slots, taken = slots + worker.slots_total, taken + worker.in_flight
    end
    if slots == 0 then return wait("batch models start after hours") end
    if taken + 1 > slots * BATCH_SHARE then
      return wait(("by day batch uses %d %% of the slots"):format(BATCH_SHARE * 100 // 1), 60000)
    end
  end
  return platform.schedule(context)
end
