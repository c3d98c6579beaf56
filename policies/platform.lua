-- The platform policy: what rbee does unless its owner says otherwise. Copy it and change what you like.
--
--   1. Order.   The queue comes ordered: interactive before batch, a batch job that has waited long among the
--               interactive ones, and the older first. Between tenants each class is shared fairly.
--   2. Quotas.  A job whose tenant runs as many jobs as it may waits, and one that would need a worker with more memory
--               than its tenant has left; a worker that runs jobs of the tenant already takes no more.
--   3. Worker.  Of the workers that have the model and a free slot: the one that served this session last, or this
--               prompt's beginning (its KV cache still holds it), else the least loaded, else the one with the most free
--               memory, else the first by id.
--   4. Start.   When no worker has the model, one is started where it fits; one at a time for each model.
--   5. Evict.   Where that needs room, idle workers make it, the least recently used first; never a pinned one, never
--               one younger than its minimum residency. A worker whose model is waited for is spared until the job that
--               needs the room has waited long; from then on it gets no new jobs, so that it becomes idle.
--
-- Fairness follows Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024): each tenant has a counter of
-- the tokens it was served, an answer's token counting twice a prompt's, divided by the tenant's weight; the tenant with
-- the lowest counter is served next. The queen keeps the counters (`tokens_counter`) and lifts that of a tenant who comes
-- back to the lowest among those being served, so that nobody saves up shares by staying away.
--
-- Settings (context.config): `replicas`, the most workers started for one model when all its slots are taken, default 1;
-- `patience_ms`, how long a job waits before it takes the room of models that others wait for, default 30,000.

local AGING_MS = 300000 -- a batch job that has waited this long counts as interactive
local PROMPT_TOKEN, ANSWER_TOKEN = 1, 2 -- what a token counts (Sheng et al., section 3)
local EXPECTED_ANSWER = 256 -- tokens of an answer whose length nobody limits
local PATIENCE_MS = 30000
local EXPLAINED_MAX = 100 -- candidates a cycle

-- What this cycle has given away so far, which the state does not show yet.
local given

local function nothing_given()
  return {
    slots = {}, evicted = {}, held = {}, tiers = {}, -- by worker, by worker, by worker, by model
    jobs = {}, tokens = {}, vram = {}, held_by = {}, -- by tenant
    memory = {}, -- by place
    explained = 0, -- candidates
    outcome = {}, wanted = {}, -- by model: what the first job that found no worker came to; whether jobs wait for it
  }
end

local function count(table, key, by) table[key] = (table[key] or 0) + (by or 1) end

-- 1. Order ------------------------------------------------------------------------------------------------------------

local function is_urgent(job) return job.priority ~= "batch" or (job.wait_time_ms or 0) >= AGING_MS end

-- Tokens a tenant has had per unit of its weight, those of this cycle included.
local function served(context, tenant_id)
  local tenant = context.tenants:get(tenant_id)
  local before, weight = tenant and tenant.tokens_counter or 0, tenant and tenant.weight or 1
  return (before + (given.tokens[tenant_id] or 0)) / weight
end

-- Returns an iterator over the jobs of one class: always the next job of the tenant that was served least.
local function fair_order(context, jobs)
  local tenants, waiting, next_of = {}, {}, {}
  for _, job in ipairs(jobs) do
    local id = job.tenant_id or ""
    if waiting[id] == nil then
      tenants[#tenants + 1], waiting[id], next_of[id] = id, {}, 1
    end
    table.insert(waiting[id], job)
  end
  return function()
    local poorest, least
    for _, id in ipairs(tenants) do
      if waiting[id][next_of[id]] then
        local its = served(context, id)
        if least == nil or its < least then poorest, least = id, its end
      end
    end
    if poorest == nil then return nil end
    next_of[poorest] = next_of[poorest] + 1
    return waiting[poorest][next_of[poorest] - 1]
  end
end

-- 2. Quotas -----------------------------------------------------------------------------------------------------------

-- Returns why a job's tenant may not have it run now; nil when it may.
local function quota_reason(context, job)
  local tenant = context.tenants:get(job.tenant_id)
  if tenant == nil then return nil end
  local within, why = check_tenant_quota(tenant, job)
  if not within then return why end
  local most, running = tenant.quota_max_concurrent_jobs, (tenant.concurrent_jobs or 0) + (given.jobs[tenant.id] or 0)
  if most and running >= most then return ("tenant %s runs %.0f of %.0f jobs"):format(tenant.id, running, most) end
end

local function memory_of(worker) return worker.memory_claimed_mb or worker.vram_mb or worker.rss_mb or 0 end

local function contains(list, value)
  for _, each in ipairs(list) do
    if each == value then return true end
  end
  return false
end

-- Whether a tenant has a job on a worker, which it then pays for already.
local function holds(tenant, worker)
  local held = given.held_by[tenant.id]
  return (held and held[worker.id]) or contains(tenant.worker_ids, worker.id)
end

-- Returns why a tenant may not make a worker of so much memory busy, or have one started; nil when it may.
local function vram_reason(tenant, memory)
  local most = tenant and tenant.quota_vram
  if most == nil then return nil end
  local used = (tenant.quota_used or 0) + (given.vram[tenant.id] or 0)
  if used + memory <= most then return nil end
  return ("tenant %s uses %.0f of %.0f MB, the worker has %.0f MB"):format(tenant.id, used, most, memory)
end

-- Returns the workers a tenant may use, and why not the others.
local function within_vram(tenant, workers)
  if tenant == nil or tenant.quota_vram == nil then return workers, nil end
  local why
  local allowed = workers:filter(function(worker)
    local over = not holds(tenant, worker) and vram_reason(tenant, memory_of(worker))
    why = over or why
    return not over
  end)
  return allowed, why
end

local function note_vram(tenant, worker)
  if tenant == nil or tenant.quota_vram == nil or holds(tenant, worker) then return end
  given.held_by[tenant.id] = given.held_by[tenant.id] or {}
  given.held_by[tenant.id][worker.id] = true
  count(given.vram, tenant.id, memory_of(worker))
end

-- 3. Worker -----------------------------------------------------------------------------------------------------------

local function free_slots(worker) return (worker.slots_available or 0) - (given.slots[worker.id] or 0) end
local function has_room(worker)
  return worker.status == "ready" and free_slots(worker) > 0 and not given.held[worker.id] and not given.evicted[worker.id]
end
local function load_of(worker)
  return ((worker.in_flight or 0) + (given.slots[worker.id] or 0)) / (worker.slots_total or 1)
end

local function roomier(a, b)
  local free_a, free_b = a.vram_free or 0, b.vram_free or 0
  if free_a ~= free_b then return free_a > free_b end
  return a.id < b.id
end

-- The workers of a model with the lowest load, the roomiest last. Loads only rise within a cycle, so a tier is good until
-- it is used up: placing many jobs looks at every worker once per tier, not once per job.
local function lowest_tier(workers)
  local tier = { load = math.huge }
  for _, worker in ipairs(workers) do
    if has_room(worker) then
      local load = load_of(worker)
      if load < tier.load then tier = { load = load } end
      if load == tier.load then tier[#tier + 1] = worker end
    end
  end
  return tier
end

-- Returns the place of the roomiest worker of a tier.
local function roomiest_place(tier)
  local best
  for place, worker in ipairs(tier) do
    if best == nil or roomier(worker, tier[best]) then best = place end
  end
  return best
end

local function least_loaded(model, workers)
  local tier = given.tiers[model]
  if tier == nil or #tier == 0 then
    -- The first of a tier is found by looking, not by sorting: most cycles place one job of a model.
    tier = lowest_tier(workers)
    given.tiers[model] = tier
    local best = roomiest_place(tier)
    return best and table.remove(tier, best)
  end
  if not tier.sorted then
    table.sort(tier, function(a, b) return roomier(b, a) end)
    tier.sorted = true
  end
  local worker = table.remove(tier)
  if has_room(worker) and load_of(worker) == tier.load then return worker end
  return least_loaded(model, workers) -- affinity has given it a job meanwhile
end

-- Returns the worker for a job and why it; nil when none of `workers` has a free slot. `some`: they are not all workers
-- with its model.
local function choose(context, job, workers, some)
  for _, affinity in ipairs({
    { job.session_last_worker, "it served this session last" },
    { job.prefix_last_worker, "it has read this prompt's beginning" },
  }) do
    local worker = context.workers:get(affinity[1])
    local function is_it(each) return each.id == worker.id end
    if worker and worker.model == job.model and has_room(worker) and (not some or workers:any(is_it)) then
      return worker, affinity[2]
    end
  end
  local worker
  if some then
    local tier = lowest_tier(workers)
    worker = tier[roomiest_place(tier)]
  else
    worker = least_loaded(job.model, workers)
  end
  return worker, worker and ("least loaded, %.0f of %.0f slots free"):format(free_slots(worker), worker.slots_total)
end

-- Tells rbee what speaks against each worker of the model, or how loaded it is: for the first jobs of a cycle, since in a
-- burst of hundreds nobody reads it, and telling takes longer than deciding.
local function explain_workers(job, workers)
  for _, worker in ipairs(workers) do
    if given.explained >= EXPLAINED_MAX then return end
    given.explained = given.explained + 1
    local fits, why = can_job_fit(job, worker)
    if fits and not has_room(worker) then fits, why = false, "is given to a job before this one" end
    explain(worker, fits and -load_of(worker) or why, job)
  end
end

-- 4. Start ------------------------------------------------------------------------------------------------------------

local function is_on(worker, place)
  if place.gpu_id == nil then return true end
  for _, id in ipairs(worker.gpu_ids) do
    if id == place.gpu_id then return true end
  end
  return false
end

-- Sets how much of a place's memory is free and promised to nobody, how much is about to be freed, MB, and who is there.
-- Workers that load do not show in the free memory yet.
local function measure(place)
  place.workers = place.pool.workers:filter(function(worker) return is_on(worker, place) end)
  place.room = (place.free or place.total or math.huge) - (given.memory[place.name] or 0)
  place.leaving = 0
  for _, worker in ipairs(place.workers) do
    if worker.status == "loading" then
      place.room = place.room - memory_of(worker)
    elseif worker.status == "draining" or given.evicted[worker.id] then
      place.leaving = place.leaving + memory_of(worker)
    end
  end
  return place
end

-- The places of a pool where a worker can live: its GPUs, or its processor where it has none. A machine with GPUs is never
-- fallen back from to its processor.
local function places_of(pool)
  local places = {}
  for _, gpu in ipairs(pool.gpus) do
    places[#places + 1] = measure{
      name = pool.id .. " " .. gpu.id, pool = pool, gpu_id = gpu.id, free = gpu.vram_free, total = gpu.vram_total,
    }
  end
  if #places == 0 then
    places[1] = measure{ name = pool.id, pool = pool, free = pool.ram_free_mb, total = pool.ram_total_mb }
  end
  return places
end

-- Returns the places on healthy pools that have the model's file, and whether another pool may bring some later. Says of
-- each what speaks against it.
local function survey(context, job, need)
  local places, later = {}, false
  for _, pool in ipairs(context.pools:with_model(job.model)) do
    if pool.status ~= "healthy" then
      later = true
      explain(pool, "is " .. (pool.status or "not heard of"), job)
    else
      for _, place in ipairs(places_of(pool)) do
        places[#places + 1] = place
        if place.room < need then
          explain(pool, ("needs %.0f MB, %s has %.0f MB free"):format(need, place.name, max(0, place.room)), job)
        end
      end
    end
  end
  return places, later
end

local function roomiest(places, need)
  local best
  for _, place in ipairs(places) do
    if place.room >= need and (best == nil or place.room > best.room) then best = place end
  end
  return best
end

local function start(job, place, need, why)
  count(given.memory, place.name, need)
  return start_worker{
    model_ref = job.model, pool_id = place.pool, gpu_id = place.gpu_id, job = job,
    reason = ("%s; it fits on %s"):format(why, place.name),
  }
end

-- 5. Evict ------------------------------------------------------------------------------------------------------------

local function last_used(context, worker)
  return context.now_ms - (worker.idle_ms or (worker.uptime_s or 0) * 1000)
end

-- Returns the workers to stop so that `need` MB are free in a place, the least recently used first, nil when that would
-- not do. The state tells only what is so now; the applier checks again that each is idle.
local function victims_in(context, place, need, may_go)
  local idle = place.workers:filter(function(worker)
    return worker.status == "ready" and worker.in_flight == 0 and not given.slots[worker.id]
      and not given.evicted[worker.id] and may_go(worker)
  end)
  local victims, room = {}, place.room + place.leaving
  for _, worker in ipairs(idle:sort_by(function(worker) return last_used(context, worker) end)) do
    victims[#victims + 1], room = worker, room + memory_of(worker)
    if room >= need then return victims end
  end
end

-- Returns the fewest victims that make room somewhere, and where; of equally many those unused for longest.
local function cheapest_victims(context, places, need, may_go)
  local best, where
  for _, place in ipairs(places) do
    local victims = (place.total or math.huge) >= need and victims_in(context, place, need, may_go)
    if victims and (best == nil or #victims < #best
        or (#victims == #best and last_used(context, victims[1]) < last_used(context, best[1]))) then
      best, where = victims, place
    end
  end
  return best, where
end

-- Lets the workers of a place run out, so that an old job gets its room although others keep them busy.
local function hold(context, places, need, may_go)
  for _, place in ipairs(places) do
    local room, those = place.room + place.leaving, {}
    for _, worker in ipairs(place.workers:filter(may_go)) do
      room = room + memory_of(worker)
      those[#those + 1] = worker
      if room >= need then
        for _, held in ipairs(those) do given.held[held.id] = true end
        return place
      end
    end
  end
end

-- Returns what to do about a model that no worker has: decisions in order, the last about the job.
local function make_place(context, job)
  local model, need = job.model, job.estimated_vram_mb or 0
  local patience = (context.config.patience_ms or PATIENCE_MS) - (job.wait_time_ms or 0)
  local patient = patience > 0
  local places, later = survey(context, job, need)

  local place = roomiest(places, need)
  if place then return { start(job, place, need, "no worker has " .. model) } end

  for _, each in ipairs(places) do
    if each.room + each.leaving >= need then
      count(given.memory, each.name, need)
      return { wait(("room for %s is being made on %s"):format(model, each.name), nil, job) }
    end
  end

  local function may_go(worker)
    return not worker.pinned and (worker.min_residency_until_ms or 0) <= context.now_ms
      and not (patient and given.wanted[worker.model])
  end
  local victims, where = cheapest_victims(context, places, need, may_go)
  if victims then
    local decisions = {}
    count(given.memory, where.name, need)
    for _, worker in ipairs(victims) do
      given.evicted[worker.id] = true
      decisions[#decisions + 1] = evict(worker, "idle and least recently used; makes room for " .. model)
    end
    decisions[#decisions + 1] = wait(("%s makes room for %s"):format(victims[1].id, model), nil, job)
    return decisions
  end

  for _, each in ipairs(places) do later = later or each.total == nil or each.total >= need end
  if #places > 0 and not later then
    local largest = places[1]
    for _, each in ipairs(places) do if each.total > largest.total then largest = each end end
    local why = "INSUFFICIENT_VRAM: no machine is large enough for %s: it needs %.0f MB, the largest device is %s with %.0f MB"
    return { reject(job, why:format(model, need, largest.name, largest.total)) }
  elseif #places == 0 then
    return { wait(later and ("no machine with %s is healthy"):format(model) or ("no machine has %s"):format(model), nil, job) }
  end
  local held = not patient and hold(context, places, need, may_go)
  if held then
    count(given.memory, held.name, need)
    return { wait(("%s is kept free for %s"):format(held.name, model), nil, job) }
  end
  local why = ("%s needs %.0f MB and nothing that may be evicted makes room"):format(model, need)
  return { wait(why, patient and patience or nil, job) }
end

-- Returns what to do about a job for whose model no worker has a free slot.
local function without_worker(context, job, workers)
  local alive = workers:filter(function(worker)
    return worker.status ~= "failed" and worker.status ~= "draining" and not given.evicted[worker.id]
  end)
  if alive:is_empty() then return make_place(context, job) end
  local loading = alive:filter(function(worker) return worker.status == "loading" end):first()
  if loading then return { wait(("%s still loads %s"):format(loading.id, job.model), nil, job) } end
  if alive:count() < (context.config.replicas or 1) then
    local need = job.estimated_vram_mb or 0
    local place = roomiest(survey(context, job, need), need)
    if place then return { start(job, place, need, "all slots with " .. job.model .. " are taken") } end
  end
  return { wait(("all slots with %s are taken"):format(job.model), nil, job) }
end

-- The decision about one job -------------------------------------------------------------------------------------------

-- Returns an earlier outcome for another job of the same model.
local function likewise(decision, job)
  if decision.action == "reject" then return reject(job, decision.reason) end
  if decision.action == "start_worker" then return wait("a worker with " .. job.model .. " is being started", nil, job) end
  return wait(decision.reason, nil, job)
end

local function decide(context, job)
  local over = quota_reason(context, job)
  if over then return { wait(over, nil, job) } end
  local earlier = given.outcome[job.model]
  if earlier then return { likewise(earlier, job) } end

  local tenant, workers = context.tenants:get(job.tenant_id), find_workers_by_model(job.model)
  explain_workers(job, workers)
  local allowed, too_large = within_vram(tenant, workers)
  local worker, why = choose(context, job, allowed, too_large ~= nil)
  if worker then
    local tenant_id = job.tenant_id or ""
    note_vram(tenant, worker)
    count(given.slots, worker.id)
    count(given.jobs, tenant_id)
    count(given.tokens, tenant_id,
      PROMPT_TOKEN * (job.prompt_tokens or 0) + ANSWER_TOKEN * (job.max_tokens or EXPECTED_ANSWER))
    return { dispatch(job, worker, why) }
  end
  if allowed:is_empty() then
    -- Not an outcome for the model: the next job may be of a tenant that has room.
    local over_vram = too_large or vram_reason(tenant, job.estimated_vram_mb or 0)
    if over_vram then return { wait(over_vram, nil, job) } end
  end
  if too_large then return { wait("the workers with " .. job.model .. " that its tenant may use are taken", nil, job) } end
  local decisions = without_worker(context, job, workers)
  given.outcome[job.model] = decisions[#decisions]
  return decisions
end

local function note_wanted(context)
  for _, job in ipairs(context.queue) do
    if not given.wanted[job.model] and not quota_reason(context, job) then given.wanted[job.model] = true end
  end
end

function schedule(context)
  given = nothing_given()
  note_wanted(context)
  local decisions = {}
  for _, urgent in ipairs({ true, false }) do
    local class = context.queue:filter(function(job) return is_urgent(job) == urgent end)
    for job in fair_order(context, class) do
      for _, decision in ipairs(decide(context, job)) do decisions[#decisions + 1] = decision end
    end
  end
  return batch(decisions)
end

-- Starts workers for models that queued jobs will need once their tenants may run them.
function on_idle(context)
  given = nothing_given()
  local decisions = {}
  for _, job in ipairs(context.queue) do
    local need, tenant = job.estimated_vram_mb or 0, context.tenants:get(job.tenant_id)
    if not given.outcome[job.model] and not vram_reason(tenant, need) then
      given.outcome[job.model] = true
      local place = find_workers_by_model(job.model):is_empty() and roomiest(survey(context, job, need), need)
      if place then decisions[#decisions + 1] = start(job, place, need, job.model .. " is waited for") end
    end
  end
  return batch(decisions)
end
