-- Running a policy: loading it, calling its entry points under the deadline, and gathering what it decided.
local error, type, xpcall, load, pcall = error, type, xpcall, load, pcall
local sethook, getinfo, clock = debug.sethook, debug.getinfo, os.clock
local randomseed, collect = math.randomseed, collectgarbage
local state, api, views = rbee.state, rbee.api, rbee.views

local HOOK_EVERY = 1000 -- instructions between looks at the clock
local ENTRY_POINTS = { "schedule", "schedule_job", "should_admit", "should_retry", "on_idle" }
local LOAD_DEADLINE_MS = 50

local policy, platform -- {name=, lines=, env=, source=}
local loading -- the one that is being loaded, for its errors

-- Errors: where in the policy, and the source line. `called` is the function of the policy that was called: a tail call
-- such as `return dispatch(...)` leaves no frame that would tell more.

local called

local function source_line(name, line)
  for _, program in pairs({ loading or false, policy or false, platform or false }) do
    if program and program.name == name then return program.lines[line] end
  end
end

local function with_source(text)
  local name, line = text:match("^(.-):(%d+): ")
  local source = name and source_line(name, tonumber(line))
  return rbee.clean(source and ("%s\n  %s | %s"):format(text, line, source) or text)
end

local function on_error(problem)
  sethook() -- nothing of the policy runs any more
  local text = type(problem) == "string" and problem or "error with " .. rbee.shown(problem)
  local frames, n = {}, 0
  for level = 2, 250 do
    local info = getinfo(level, "Sln")
    if info == nil or n == 10 then break end
    if info.what ~= "C" and info.source:sub(1, 9) ~= "=prelude/" then
      n = n + 1
      local of = info.name and "function " .. info.name or info.what == "main" and "main chunk" or "a function"
      frames[n] = ("%s:%d: in %s"):format(info.source:sub(2), info.currentline, of)
    end
  end
  text = text:gsub("^prelude/[%w_]+:%d+: ", "")
  if text == "not enough memory" then text = "policy exceeded its memory" end
  if not text:find("^[^\n]-:%d+: ") then
    local at = frames[1] and frames[1]:match("^.-:%d+: ")
    local info = getinfo(called, "S")
    text = (at or ("%s:%d: in the function that begins here: "):format(info.source:sub(2), info.linedefined)) .. text
  end
  return { text = with_source(text), traceback = rbee.clean(table.concat(frames, "\n")) }
end

-- Calls a function of a policy; raises inside it once it has used `limit_ms` of processor time. From then on every
-- instruction raises, so that a policy that catches the error does not get far.

local began, limit_ms = clock(), LOAD_DEADLINE_MS
local function watch()
  if (clock() - began) * 1000 < limit_ms then return end
  sethook(watch, "", 1)
  error(("policy exceeded %.0f ms"):format(limit_ms), 0)
end

rbee.check_deadline = watch

local function call(fn, now, limit, ...)
  began, limit_ms, called = now, limit, fn
  sethook(watch, "", HOOK_EVERY)
  local ok, first, second = xpcall(fn, on_error, ...)
  sethook()
  if not ok and type(first) ~= "table" then -- memory ran out, or the error handler failed: no handler's table
    collect()
    first = { text = tostring(first) == "not enough memory" and "policy exceeded its memory" or rbee.clean(tostring(first)) }
  end
  return ok, first, second
end

-- Loading.

local function compile(source, name)
  local program = { name = name, source = source, lines = {}, env = rbee.new_environment() }
  for line in (source .. "\n"):gmatch("(.-)\r?\n") do program.lines[#program.lines + 1] = line end
  loading = program
  local chunk, problem = load(source, "=" .. name, "t", program.env)
  if chunk == nil then return nil, with_source(problem) end
  rbee.noted = {}
  local ok, failure = call(chunk, clock(), LOAD_DEADLINE_MS)
  if not ok then return nil, failure.text or failure.bad end
  local defined = 0
  for _, entry in pairs(ENTRY_POINTS) do
    local fn = rawget(program.env, entry)
    if fn ~= nil and type(fn) ~= "function" then return nil, ("%s: %s must be a function"):format(name, entry) end
    if fn then defined = defined + 1 end
  end
  if defined == 0 then
    return nil, name .. ": defines no entry point; write function schedule(context) or function schedule_job(job, pools, workers)"
  end
  rbee.close_environment(program.env)
  return program
end

-- Loads a policy; the one before stays when this fails. Returns nil, or what is wrong.
function rbee_load(source, name)
  local program, problem = compile(source, name)
  loading = nil
  policy = program or policy
  return problem
end

-- Forgets the loaded policy: the platform policy decides.
function rbee_unload() policy = nil end

function rbee_load_platform(source)
  local program, problem = compile(source, "platform")
  loading = nil
  platform = program or platform
  return problem
end

-- Those of the loaded policy, of the platform policy while none is loaded.
function rbee_entry_points()
  local names, program = {}, policy or platform
  for _, entry in pairs(ENTRY_POINTS) do
    if program and rawget(program.env, entry) then names[#names + 1] = entry end
  end
  return names
end

-- Contexts: the whole queue, or one job in a queue of its own.

local function context_of(queue)
  local row = rbee.new_row(rbee.kinds.context)
  row.queue, row.pools, row.hives, row.workers = queue, rbee.all_pools, rbee.all_pools, rbee.all_workers
  row.tenants, row.models, row.metrics, row.config = rbee.all_tenants, rbee.all_models, rbee.metrics_view, rbee.config_view
  row.helpers = rbee.helpers_view
  row.platform_schedule = function() return api.platform.schedule() end
  return rbee.new_view(rbee.kinds.context, row), row
end

local lone_array = {}

api.platform = rbee.freeze({
  -- What the platform policy would do: about the job at hand where there is one, else about the whole queue.
  schedule = function()
    if platform == nil then error("no platform policy is loaded", 2) end
    local job = rbee.job_at_hand
    if job == nil then return rawget(platform.env, "schedule")(rbee.context) end
    lone_array[1] = job
    local decision = rawget(platform.env, "schedule")(rbee.lone_context)
    local actions = type(decision) == "table" and rawget(decision, "actions")
    return type(actions) == "table" and #actions == 1 and actions[1] or decision
  end,
  get_source = function() return platform and platform.source end,
}, "platform")

local names = {}
for name in pairs(rbee.helpers) do names[name] = api[name] end
rbee.helpers_view = rbee.freeze(names, "context.helpers")
local row, lone_row
rbee.context, row = context_of(rbee.queue_list)
rbee.lone_context, lone_row = context_of(rbee.shared_list(lone_array))
api.context, api.hives = rbee.context, rbee.all_pools

-- Cycles.

local function begin(now_ms, seed)
  rbee.take_back_promises()
  rbee.new_report()
  state.now_ms, row.now_ms, lone_row.now_ms = now_ms, now_ms, now_ms
  rbee.turn, rbee.job_at_hand = seed, nil
  randomseed(seed)
end

local function finish(decisions, failure, program)
  rbee.take_back_promises()
  rbee.job_at_hand = nil
  local report = rbee.report
  report.explained_per_job = nil
  report.decisions = decisions
  if failure then
    report.decisions = {}
    report.error = failure.text or ("%s: %s"):format(program.name, failure.bad)
    report.traceback = failure.traceback
  end
  return report
end

-- Checks what a policy returned and appends it to `out`; returns what is wrong with it, if anything. Unless it is the
-- last of the cycle, its effect is promised, so that the next decision sees it.
local function take(result, job, out, last)
  local before = #out
  local ok, problem = pcall(rbee.check_decision, result, job, out)
  if not ok then return type(problem) == "table" and problem or { text = tostring(problem) } end
  if last then return nil, false end
  local queue, moved = rbee.queue_array, false
  for i = before + 1, #out do
    local d = out[i]
    local about = d.job_id and views.jobs[d.job_id]
    if d.action == "dispatch" and about then rbee.promise_slot(d.worker_id, about) end
    if d.action == "start_worker" then rbee.promise_start(d.model_ref, d.pool_id, d.gpu_id) end
    if d.action == "evict" then rbee.promise_eviction(d.worker_id) end
    if about and (d.action == "dispatch" or d.action == "reject") then
      for place = 1, #queue do
        if queue[place] == about then
          table.remove(queue, place)
          moved = true
          break
        end
      end
    end
  end
  return nil, moved
end

-- Asks about one job after another.
local function each_job(program, deadline_ms)
  local fn, out, since = rawget(program.env, "schedule_job"), {}, clock()
  local jobs, now = table.move(rbee.queue_array, 1, #rbee.queue_array, 1, {}), since
  for i = 1, #jobs do
    if i > 1 then now = clock() end
    if (now - since) * 1000 >= deadline_ms then
      rbee.report.undecided = #jobs - i + 1
      break
    end
    local job = jobs[i]
    rbee.job_at_hand = job
    local ok, result = call(fn, now, deadline_ms, job, rbee.all_pools, rbee.all_workers)
    if not ok then return out, result end
    if result == nil then
      out[#out + 1] = { action = "wait", job_id = job.id }
    else
      local failure = take(result, job, out, i == #jobs)
      if failure then
        failure.bad = failure.bad and ("schedule_job returned a bad decision for job %s: %s"):format(job.id, failure.bad)
        return out, failure
      end
    end
  end
  return out
end

-- Asks about the whole queue, again as long as a single decision takes a job out of it.
local function whole_queue(program, deadline_ms)
  local fn, out, since = rawget(program.env, "schedule"), {}, clock()
  local queue, now = rbee.queue_array, since
  while queue[1] do
    if (now - since) * 1000 >= deadline_ms then
      rbee.report.undecided = #queue
      break
    end
    local ok, result = call(fn, now, deadline_ms, rbee.context)
    if not ok then return out, result end
    if result == nil then break end
    local whole = type(result) == "table" and rawget(result, "action") == "batch"
    local failure, moved = take(result, nil, out, whole or queue[2] == nil)
    if failure then
      failure.bad = failure.bad and "schedule returned a bad decision: " .. failure.bad
      return out, failure
    end
    if not moved then break end
    now = clock()
  end
  return out
end

local function decide(program, now_ms, seed, deadline_ms)
  begin(now_ms, seed)
  local queue = rbee.queue_array
  local kept = table.move(queue, 1, #queue, 1, {})
  local run = rawget(program.env, "schedule") and whole_queue or each_job
  local out, failure = run(program, deadline_ms)
  table.move(kept, 1, #kept, 1, queue)
  return finish(out, failure, program)
end

function rbee_decide_platform(now_ms, seed, deadline_ms) return decide(platform, now_ms, seed, deadline_ms) end

function rbee_decide(now_ms, seed, deadline_ms)
  local schedules = policy and (rawget(policy.env, "schedule") or rawget(policy.env, "schedule_job"))
  return decide(schedules and policy or platform, now_ms, seed, deadline_ms)
end

-- Calls should_admit, should_retry or on_idle of the loaded policy, or of the platform policy while none is loaded.
function rbee_call(name, args, now_ms, seed, deadline_ms)
  local program = policy or platform
  local fn = program and rawget(program.env, name)
  begin(now_ms, seed)
  if fn == nil then return finish({}) end
  local job = args.job_id and views.jobs[args.job_id]
  if name ~= "on_idle" and job == nil then
    return finish({}, { bad = ("there is no job %s"):format(rbee.shown(args.job_id)) }, program)
  end
  rbee.job_at_hand = job
  local ok, first, second
  if name == "should_retry" then
    ok, first, second = call(fn, clock(), deadline_ms, job, args.attempt, rbee.freeze(args.error, "error"))
  elseif name == "should_admit" then
    ok, first, second = call(fn, clock(), deadline_ms, job, rbee.context)
  else
    ok, first, second = call(fn, clock(), deadline_ms, rbee.context)
  end
  if not ok then return finish({}, first, program) end
  local out, failure = {}, nil
  if name == "on_idle" then
    if first ~= nil then failure = take(first, nil, out) end
  elseif first ~= nil and type(first) ~= "boolean" then
    failure = { bad = ("must return true or false, got %s"):format(rbee.shown(first)) }
  else
    rbee.report.answer = first
    rbee.report.answer_reason = type(second) == "string" and rbee.clean(second) or nil
  end
  if failure and failure.bad then failure.bad = name .. ": " .. failure.bad end
  return finish(out, failure, program)
end
