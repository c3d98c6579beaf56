-- Helpers for finding out: log lines, metrics and explanations, each with a bound so that none can flood the queen.
local helper, type, tostring = rbee.helper, type, tostring

local LOGS_MAX, METRICS_MAX, TEXT_MAX = 100, 100, 1000 -- lines, values, bytes
local EXPLAINED_MAX, EXPLAINED_PER_JOB = 5000, 50

-- Returns text that is valid UTF-8 and at most TEXT_MAX bytes.
function rbee.clean(text)
  if #text > TEXT_MAX then
    local cut = TEXT_MAX
    while cut > TEXT_MAX - 4 and (text:byte(cut + 1) or 0) & 0xC0 == 0x80 do cut = cut - 1 end
    text = text:sub(1, cut)
  end
  if utf8.len(text) == nil then text = text:gsub("[\x80-\xff]", "?") end
  return text
end

rbee.noted = {}

function rbee.new_report() rbee.report = { dropped_logs = 0 } end
rbee.new_report()

function rbee.log(level, message)
  local report = rbee.report
  local logs = report.logs
  if logs == nil then
    logs = {}
    report.logs = logs
  end
  if #logs >= LOGS_MAX then
    report.dropped_logs = report.dropped_logs + 1
    return
  end
  logs[#logs + 1] = { level = level, message = rbee.clean(message) }
end

for _, level in pairs({ "debug", "info", "warn", "error" }) do
  helper("debugging", "log_" .. level, "any?", function(message)
    rbee.log(level, type(message) == "string" and message or rbee.shown(message))
  end)
end

local function finite(value) return value == value and value ~= math.huge and value ~= -math.huge end
rbee.finite = finite

helper("debugging", "emit_metric", "string, number", function(name, value)
  if not finite(value) then error("emit_metric: " .. tostring(value) .. " is not a finite number", 3) end
  local metrics = rbee.report.metrics or {}
  rbee.report.metrics = metrics
  if #metrics < METRICS_MAX then metrics[#metrics + 1] = { name = rbee.clean(name), value = value + 0.0 } end
end)

-- Says of a worker (or of a pool, as a place for a new one) why it does not get the job, or with what score it could.
helper("debugging", "explain", "worker|pool, string|number, job?", function(thing, said, job)
  if rbee.unexplained then return end -- nobody will read it
  local report = rbee.report
  job = job or rbee.job_at_hand
  local explained, per_job = report.explained, report.explained_per_job
  if explained == nil then
    explained, per_job = {}, {}
    report.explained, report.explained_per_job = explained, per_job
  end
  local job_id = job and job.id or ""
  local count = per_job[job_id] or 0
  if count >= EXPLAINED_PER_JOB or #explained >= EXPLAINED_MAX then return end
  per_job[job_id] = count + 1
  local entry = { job_id = job_id }
  if rbee.kind_of(thing) == "pool" then
    entry.pool_id = thing.id
  else
    entry.worker_id, entry.pool_id = thing.id, thing.pool_id
  end
  if type(said) == "string" then entry.reason = rbee.clean(said) else entry.score = finite(said) and said + 0.0 or 0.0 end
  explained[#explained + 1] = entry
end)
