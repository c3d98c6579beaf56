-- Decisions: the functions that build them, and the check every decision goes through before it leaves the policy.
local error, type, rawget, rawlen, floor = error, type, rawget, rawlen, math.floor
local api, kind_of, shown = rbee.api, rbee.kind_of, rbee.shown
local metatable_of = debug.getmetatable

local ACTIONS_MAX, DEPTH_MAX = 10000, 8

-- Builders. Each takes views or ids; what it makes is a plain table that may be written out by hand as well.

local builder = function(name, signature, fn)
  rbee.helpers[name] = { group = "decisions", signature = signature }
  api[name] = fn
end

local function id_of(value, kind, name)
  if kind_of(value) == kind then return value.id end
  if type(value) == "string" then return value end
  error(("%s: expected a %s or its id, got %s"):format(name, kind, value == nil and "nothing" or shown(value)), 3)
end

builder("dispatch", "job|string, worker|string, string?", function(job, worker, reason)
  return {
    action = "dispatch", job_id = id_of(job, "job", "dispatch"), worker_id = id_of(worker, "worker", "dispatch"),
    reason = reason,
  }
end)

builder("wait", "string?, number?, job?", function(reason, retry_after_ms, job)
  return { action = "wait", reason = reason, retry_after_ms = retry_after_ms, job_id = job and id_of(job, "job", "wait") }
end)

builder("start_worker", "table", function(fields)
  if type(fields) ~= "table" then error("start_worker takes a table: start_worker{model_ref=..., pool_id=...}", 2) end
  local job = fields.job
  return {
    action = "start_worker", model_ref = rbee.ref_of(fields.model_ref or fields.model),
    pool_id = rbee.id_of(fields.pool_id or fields.pool), gpu_id = rbee.id_of(fields.gpu_id or fields.gpu),
    reason = fields.reason, job_id = job and id_of(job, "job", "start_worker") or fields.job_id,
  }
end)

builder("evict", "worker|string, string?", function(worker, reason)
  return { action = "evict", worker_id = id_of(worker, "worker", "evict"), reason = reason }
end)

-- reject(reason) is about the job at hand; reject(job, reason) about any.
builder("reject", "job?, string", function(job, reason)
  if kind_of(job) ~= "job" then return { action = "reject", reason = job } end
  return { action = "reject", job_id = job.id, reason = reason }
end)

builder("batch", "table", function(actions)
  if type(actions) ~= "table" then error("batch takes a list of decisions: batch{a, b, c}", 2) end
  return { action = "batch", actions = actions }
end)

-- The check. It reads raw fields only, so no code of the policy runs in it.

local function fail(action, field, expected, value)
  error({ bad = ("%s: %s must be %s, got %s"):format(action, field, expected, value == nil and "nothing" or
    type(value) .. " " .. shown(value)) })
end

local function text(decision, action, field, required)
  local value = rawget(decision, field)
  if value == nil and not required then return nil end
  if type(value) ~= "string" then fail(action, field, "a string", value) end
  return rbee.clean(value)
end

local function id(decision, action, field, required)
  local value = text(decision, action, field, required)
  if value == "" and required then fail(action, field, "an id", value) end
  return value
end

-- Returns the id of the job a decision is about: its own, else that of the job at hand.
local function job_id(decision, action, job, required)
  local own = id(decision, action, "job_id")
  if own == nil and job then return job.id end
  if own == nil and required then fail(action, "job_id", "the id of a job (no single job is at hand here)", nil) end
  return own
end

local check = {}

function check.dispatch(d, job)
  return {
    action = "dispatch", job_id = job_id(d, "dispatch", job, true), worker_id = id(d, "dispatch", "worker_id", true),
    reason = text(d, "dispatch", "reason"),
  }
end

function check.wait(d, job)
  local ms = rawget(d, "retry_after_ms")
  if ms ~= nil and (type(ms) ~= "number" or not rbee.finite(ms) or ms < 0 or ms > 86400000) then
    fail("wait", "retry_after_ms", "a number of milliseconds up to a day", ms)
  end
  return {
    action = "wait", job_id = job_id(d, "wait", job), reason = text(d, "wait", "reason"),
    retry_after_ms = ms and floor(ms),
  }
end

function check.start_worker(d, job)
  local fields = rawget(d, "start_worker")
  if fields == nil then fields = d end
  if type(fields) ~= "table" then fail("start_worker", "start_worker", "a table", fields) end
  return {
    action = "start_worker", job_id = job_id(d, "start_worker", job),
    model_ref = id(fields, "start_worker", "model_ref", true), pool_id = id(fields, "start_worker", "pool_id", true),
    gpu_id = id(fields, "start_worker", "gpu_id"),
    reason = text(d, "start_worker", "reason") or text(fields, "start_worker", "reason"),
  }
end

function check.evict(d)
  local field = rawget(d, "worker_id") == nil and rawget(d, "evict_worker_id") ~= nil and "evict_worker_id" or "worker_id"
  return { action = "evict", worker_id = id(d, "evict", field, true), reason = text(d, "evict", "reason") }
end
check.evict_worker = check.evict

function check.reject(d, job)
  return { action = "reject", job_id = job_id(d, "reject", job, true), reason = text(d, "reject", "reason", true) }
end

-- Appends what a policy returned to `out`, flattened and checked. `job` is the job at hand, nil where the whole queue is.
function rbee.check_decision(result, job, out, depth)
  depth = depth or 0
  local kind = kind_of(result)
  if kind == "worker" and job then result = { action = "dispatch", worker_id = result.id } end
  if type(result) ~= "table" or (kind and kind ~= "worker") or (kind == "worker" and not job) then
    error({ bad = ("expected a decision%s, got %s"):format(job and " or a worker" or "", shown(result)) })
  end
  local action = rawget(result, "action")
  if type(action) ~= "string" then
    error({ bad = "action must be a string, got " .. (action == nil and "nothing" or type(action) .. " " .. shown(action)) })
  end
  if action == "batch" then
    local actions = rawget(result, "actions")
    if type(actions) ~= "table" then fail("batch", "actions", "a list of decisions", actions) end
    local meta = metatable_of(actions)
    actions = meta and meta.array or actions
    if depth >= DEPTH_MAX then error({ bad = ("batch: nested more than %d deep"):format(DEPTH_MAX) }) end
    if rawlen(actions) > ACTIONS_MAX then error({ bad = ("batch: at most %d actions"):format(ACTIONS_MAX) }) end
    for i = 1, rawlen(actions) do rbee.check_decision(rawget(actions, i), job, out, depth + 1) end
    return
  end
  local checked = check[action]
  if checked == nil then
    local near = rbee.nearest_name(action:sub(1, 40), check)
    error({ bad = ("there is no action %s%s"):format(shown(action), near and "; did you mean " .. near .. "?" or "") })
  end
  if #out >= ACTIONS_MAX then error({ bad = ("at most %d actions in one cycle"):format(ACTIONS_MAX) }) end
  out[#out + 1] = checked(result, job)
end
