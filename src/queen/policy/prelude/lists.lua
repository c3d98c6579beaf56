-- Collections: lists that chain with `:`. A list that belongs to the state (context.workers, pool.workers, the workers of
-- one model) is read-only and shared; what a method returns is a new list of the caller's own.
local error, setmetatable, type, sort = error, setmetatable, type, table.sort
local metatable_of, random = debug.getmetatable, math.random

local methods = {}
rbee.list_methods = methods
local array_meta = { __index = methods }
local own_meta = { __index = methods, __metatable = false, __name = "list" }

local function refuse()
  error("this list is read-only: use :filter, :sort_by or :map to make another", 2)
end
local function len(list) return #metatable_of(list).array end
local function list_pairs(list)
  local array, i = metatable_of(list).array, 0
  return function()
    i = i + 1
    if array[i] ~= nil then return i, array[i] end
  end
end

-- Returns a read-only list over an array that the state owns; it shows later changes of the array. `by_id` finds its
-- members where there is such a table.
function rbee.shared_list(array, by_id)
  setmetatable(array, array_meta)
  return setmetatable({}, {
    __index = array, __newindex = refuse, __len = len, __pairs = list_pairs, __metatable = false, __name = "list",
    array = array, by_id = by_id,
  })
end

function rbee.own_list(array) return setmetatable(array or {}, own_meta) end

-- Returns what to loop over: the array behind a shared list, else the table itself.
local function items(list)
  if type(list) ~= "table" then error("a list's methods are called with a colon: list:filter(...)", 3) end
  local meta = metatable_of(list)
  return meta and meta.array or list
end
rbee.items = items

local function reader(key, name)
  if type(key) == "function" then return key end
  if type(key) == "string" then return function(item) return item[key] end end
  error((":%s takes a function or a field name, got %s"):format(name, rbee.shown(key)), 3)
end

local function predicate(fn, name)
  if type(fn) ~= "function" then error((":%s takes a function, got %s"):format(name, rbee.shown(fn)), 3) end
  return fn
end

function methods.filter(list, keep)
  predicate(keep, "filter")
  local source, out, n = items(list), {}, 0
  for i = 1, #source do
    local item = source[i]
    if keep(item) then
      n = n + 1
      out[n] = item
    end
  end
  return setmetatable(out, own_meta)
end

-- Workers that run nothing and serve.
function methods.idle(list)
  local source, out, n = items(list), {}, 0
  for i = 1, #source do
    local worker = source[i]
    if worker.status == "ready" and worker.in_flight == 0 then
      n = n + 1
      out[n] = worker
    end
  end
  return setmetatable(out, own_meta)
end

-- Workers that serve and have a free slot; healthy pools.
function methods.available(list)
  local source, out, n = items(list), {}, 0
  for i = 1, #source do
    local item = source[i]
    local status = item.status
    if (status == "ready" and (item.slots_available or 0) > 0) or status == "healthy" then
      n = n + 1
      out[n] = item
    end
  end
  return setmetatable(out, own_meta)
end

local online = { ready = true, busy = true, healthy = true, degraded = true }
function methods.online(list)
  return methods.filter(list, function(item) return online[item.status] end)
end

-- Whether a pool has a model's file on its disk; synthetic models need none.
local function holds(pool, ref)
  if type(ref) == "string" and ref:sub(1, 10) == "synthetic:" then return true end
  local cached = pool.cached_models
  for i = 1, #cached do
    if cached[i] == ref then return true end
  end
  return false
end

-- Workers that have loaded a model or are loading it; pools that have its file.
function methods.with_model(list, model)
  local ref = type(model) == "table" and model.model_ref or model
  if list == rbee.all_workers then return rbee.workers_with_model(ref) end
  return methods.filter(list, function(item)
    if rbee.kind_of(item) == "pool" then return holds(item, ref) end
    return item.model_ref == ref
  end)
end

function methods.in_pool(list, pool)
  local id = type(pool) == "table" and pool.id or pool
  return methods.filter(list, function(item) return item.pool_id == id end)
end

-- Workers or GPUs with this much memory free; pools with such a GPU, or, without GPUs, with so much RAM.
function methods.with_capacity(list, vram_mb)
  if type(vram_mb) ~= "number" then
    error((":with_capacity takes megabytes, got %s"):format(rbee.shown(vram_mb)), 2)
  end
  return methods.filter(list, function(item)
    local free = item
    if rbee.kind_of(item) == "pool" then free = rbee.pool_vram_free(item) else free = item.vram_free end
    return free ~= nil and free >= vram_mb
  end)
end

function methods.with_label(list, key, value)
  return methods.filter(list, function(item)
    local found = item.labels[key]
    return found ~= nil and (value == nil or found == value)
  end)
end

-- Smallest key first; those without a key last; ties stay in their order.
function methods.sort_by(list, key)
  local read, source = reader(key, "sort_by"), items(list)
  local keys, order, out = {}, {}, {}
  for i = 1, #source do
    local value = read(source[i])
    if value == false or value == true then value = value and 1 or 0 end
    if value ~= nil and type(value) ~= "number" and type(value) ~= "string" then
      error((":sort_by needs numbers or strings, got %s"):format(rbee.shown(value)), 2)
    end
    keys[i], order[i] = value, i
  end
  sort(order, function(a, b)
    local ka, kb = keys[a], keys[b]
    if ka == kb then return a < b end
    if ka == nil or kb == nil then return kb == nil end
    if type(ka) ~= type(kb) then return type(ka) == "number" end
    return ka < kb
  end)
  for i = 1, #order do out[i] = source[order[i]] end
  return setmetatable(out, own_meta)
end

function methods.map(list, fn)
  predicate(fn, "map")
  local source, out, n = items(list), {}, 0
  for i = 1, #source do
    local value = fn(source[i])
    if value ~= nil then
      n = n + 1
      out[n] = value
    end
  end
  return setmetatable(out, own_meta)
end

function methods.first(list) return items(list)[1] end
function methods.last(list)
  local source = items(list)
  return source[#source]
end
function methods.count(list) return #items(list) end
function methods.is_empty(list) return items(list)[1] == nil end

function methods.get(list, id)
  local source, meta = items(list), metatable_of(list)
  if meta and meta.by_id then return id ~= nil and meta.by_id[id] or nil end
  for i = 1, #source do
    if source[i].id == id then return source[i] end
  end
  return nil
end

function methods.any(list, fn)
  predicate(fn, "any")
  local source = items(list)
  for i = 1, #source do
    if fn(source[i]) then return true end
  end
  return false
end

function methods.all(list, fn)
  predicate(fn, "all")
  local source = items(list)
  for i = 1, #source do
    if not fn(source[i]) then return false end
  end
  return true
end

-- Items without a key do not take part; of equals the first wins.
local function extreme(list, key, name, sign)
  local read, source = reader(key, name), items(list)
  local best, best_key
  for i = 1, #source do
    local value = read(source[i])
    if value ~= nil then
      if type(value) ~= "number" then
        error((":%s needs numbers, got %s"):format(name, rbee.shown(value)), 3)
      end
      if best == nil or value * sign < best_key * sign then best, best_key = source[i], value end
    end
  end
  if best == nil and source[1] ~= nil then rbee.note_absent(":" .. name, rbee.shown(key) .. " is known of none") end
  return best
end

function methods.min_by(list, key) return extreme(list, key, "min_by", 1) end
function methods.max_by(list, key) return extreme(list, key, "max_by", -1) end

-- The worker with the fewest jobs per slot; of equals the first.
function methods.least_loaded(list)
  local source = items(list)
  local best, best_load
  for i = 1, #source do
    local worker = source[i]
    local jobs = worker.in_flight or 0
    if jobs == 0 then return worker end
    local load = jobs / (worker.slots_total or 1)
    if best == nil or load < best_load then best, best_load = worker, load end
  end
  return best
end

function methods.most_vram_free(list) return extreme(list, "vram_free", "most_vram_free", -1) end
function methods.cheapest(list) return extreme(list, "cost_per_token", "cheapest", 1) end

-- The next one in turn: where a cycle begins comes from its seed, each call in it moves on by one.
function methods.round_robin(list)
  local source = items(list)
  if source[1] == nil then return nil end
  rbee.turn = rbee.turn + 1
  return source[(rbee.turn - 1) % #source + 1]
end

function methods.random(list)
  local source = items(list)
  if source[1] == nil then return nil end
  return source[random(#source)]
end

function methods.nearest(list, geo)
  if type(geo) ~= "table" or geo.latitude == nil or geo.longitude == nil then
    return rbee.note_absent(":nearest", "where the caller is")
  end
  return extreme(list, function(item)
    local there = item.geo
    if there.latitude == nil or there.longitude == nil then return nil end
    return rbee.distance(geo.latitude, geo.longitude, there.latitude, there.longitude)
  end, "nearest", 1)
end
