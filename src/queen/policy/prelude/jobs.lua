-- Helpers about jobs.
local helper, rawget = rbee.helper, rawget

local AGING_MS = 300000 -- a batch job that has waited this long counts as interactive (architecture.md section 2)
local EXPECTED_TOKENS = 256 -- of an answer whose length nobody limits
local INPUT_WEIGHT, OUTPUT_WEIGHT = 1, 2 -- what tokens count: Sheng et al., OSDI 2024, section 3

-- Weighted tokens a job is expected to take: prompt and answer.
function rbee.expected_cost(job)
  local answer = job.max_tokens or EXPECTED_TOKENS
  return INPUT_WEIGHT * (job.prompt_tokens or 0) + OUTPUT_WEIGHT * answer
end

-- Milliseconds a job is expected to take, of rows: at the worker's measured speed, else at that of its model's workers.
function rbee.duration(job, worker)
  local known = rawget(job, "estimated_duration_ms")
  local speed = worker and worker.avg_tokens_per_sec
  if not speed then
    if known then return known end
    local total, n = 0, 0
    local workers = rbee.items(rbee.workers_with_model(job.model))
    for i = 1, #workers do
      local its = workers[i].avg_tokens_per_sec
      if its then total, n = total + its, n + 1 end
    end
    if n == 0 then return nil end
    speed = total / n
  end
  if speed <= 0 then return nil end
  return (job.max_tokens or EXPECTED_TOKENS) / speed * 1000
end

local function job_of(job, name)
  if type(job) == "table" then return job end
  return rbee.views.jobs[job] or rbee.note_absent(name, "job " .. rbee.shown(job))
end

helper("jobs", "get_job", "string|job", function(id) return job_of(id, "get_job") end)

helper("jobs", "filter_jobs", "function", function(fn) return rbee.queue_list:filter(fn) end)

helper("jobs", "calculate_wait_time", "string|job", function(id)
  local job = job_of(id, "calculate_wait_time")
  return job and job.wait_time_ms
end)

helper("jobs", "estimate_job_duration", "string|job, worker?", function(id, worker)
  local job = job_of(id, "estimate_job_duration")
  if job == nil then return nil end
  local ms = rbee.duration(rbee.row_of(job), worker)
  if ms == nil then return rbee.note_absent("estimate_job_duration", "the speed of " .. rbee.shown(job.model)) end
  return ms
end)

-- Whether a worker can take a job now, and why not.
helper("jobs", "can_job_fit", "string|job, worker", function(id, worker)
  local job = job_of(id, "can_job_fit")
  if job == nil then return nil end
  if worker.model_ref ~= job.model_ref then return false, "has another model" end
  if worker.status == "loading" then return false, "still loads the model" end
  if worker.status ~= "ready" and worker.status ~= "busy" then return false, "is " .. (worker.status or "not known") end
  if (worker.slots_available or 0) <= 0 then
    return false, ("all %.0f slots are taken"):format(worker.slots_total or 0)
  end
  return true
end)

-- Higher is more urgent: interactive and promoted batch jobs from 1,000 up, batch jobs from 0, a point per second waited.
helper("jobs", "get_job_priority_score", "string|job", function(id)
  local job = job_of(id, "get_job_priority_score")
  if job == nil then return nil end
  local waited = job.wait_time_ms or 0
  local urgent = job.priority == "interactive" or waited >= AGING_MS
  return (urgent and 1000 or 0) + waited / 1000
end)
