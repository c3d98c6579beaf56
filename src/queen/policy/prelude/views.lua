-- Read-only views: what a policy holds of a row. A row is a plain table that is patched from outside; its view is an
-- empty table whose __index is the row itself, so a known field costs one table access. Fields that are computed, or not
-- there, fall through to the row's own metatable. One view lives as long as its row.
local error, load, pairs, setmetatable, type = error, load, pairs, setmetatable, type
local metatable_of, next, sort = debug.getmetatable, next, table.sort
local rawget, tostring = rawget, tostring

-- Most of the heap is state that stays; what a decision allocates is gone at its end.
collectgarbage("generational")

rbee = {}
rbee.state = { jobs = {}, workers = {}, pools = {}, tenants = {}, models = {}, metrics = {}, config = {}, queue = {} }

-- Frozen maps and arrays: the nested values of rows.

local function refuse_key(name, key) error(("%s is read-only: %s cannot be set"):format(name, rbee.shown(key)), 3) end
local function refuse(view, key) refuse_key(metatable_of(view).__name, key) end

-- The order of keys is the same in every process, which Lua's own `next` does not promise.
local rank = { number = 1, string = 2, boolean = 3 }
local function before(a, b)
  local ra, rb = rank[type(a)] or 4, rank[type(b)] or 4
  if ra ~= rb then return ra < rb end
  if ra <= 2 then return a < b end
  return ra == 3 and a == false and b == true
end

function rbee.sorted_keys(t)
  local keys, n = {}, 0
  for key in next, t do
    n = n + 1
    keys[n] = key
  end
  sort(keys, before)
  return keys
end

-- Returns an iterator over (key, value) pairs in the order of `keys`; values that are gone by then are left out.
function rbee.each(keys, read)
  local i = 0
  return function()
    while true do
      i = i + 1
      local key = keys[i]
      if key == nil then return nil end
      local value = read(key)
      if value ~= nil then return key, value end
    end
  end
end

local function frozen_pairs(view)
  local map = metatable_of(view).__index
  return rbee.each(rbee.sorted_keys(map), function(key) return map[key] end)
end

local function frozen_len(view) return #metatable_of(view).__index end

function rbee.freeze(value, name)
  if type(value) ~= "table" then return value end
  local map = {}
  for key, item in next, value do map[key] = rbee.freeze(item, name) end
  return setmetatable({}, {
    __index = map, __newindex = refuse, __pairs = frozen_pairs, __len = frozen_len, __metatable = false,
    __name = name or "this table",
  })
end

-- Kinds: the fields of each thing, their second names, and those made from others.

rbee.kinds = {}

local function words(text)
  local out = {}
  for word in text:gmatch("%S+") do out[#out + 1] = word end
  return out
end

-- `fields` are documented; `raw` are further fields of rows that may be read too. `aliases` maps second to first names,
-- `computed` names to functions of the row, `nested` names of row fields to functions that make them read-only.
function rbee.kind(name, kind)
  kind.name, kind.fields, kind.raw = name, words(kind.fields), words(kind.raw or "")
  kind.aliases, kind.computed, kind.nested = kind.aliases or {}, kind.computed or {}, kind.nested or {}
  local known, second_name = {}, {}
  for _, list in pairs({ kind.fields, kind.raw }) do
    for i = 1, #list do known[list[i]] = true end
  end
  for alias, first in pairs(kind.aliases) do
    known[alias], second_name[first] = true, alias
  end
  kind.known, kind.second_name = known, second_name
  local computed = kind.computed
  kind.refuse = function(_, key) refuse_key(name, key) end
  kind.row_meta = {
    __index = function(row, key)
      local compute = computed[key]
      if compute then return compute(row) end
      if known[key] then return nil end
      local near = type(key) == "string" and rbee.nearest_name(key, known)
      error(("%s has no field %s%s"):format(name, rbee.shown(key), near and "; did you mean " .. near .. "?" or ""), 2)
    end,
  }
  kind.pairs = function(view)
    local keys = {}
    for key in pairs(known) do keys[#keys + 1] = key end
    sort(keys)
    return rbee.each(keys, function(key) return view[key] end)
  end
  rbee.kinds[name] = kind
  return kind
end

-- A constructor makes room for as many fields as it names, even if they are nil: rows that do not grow lie close together.
local function blank(fields) return load("return {" .. ("x = nil,"):rep(fields) .. "}", "=prelude/blank") end

function rbee.new_row(kind)
  kind.blank = kind.blank or blank(#kind.fields)
  return setmetatable(kind.blank(), kind.row_meta)
end

-- Four entries and no more: the size of a metatable counts where there are thousands. `kind` cannot be forged: metatables
-- of policies' own tables are copies that hold metamethods alone.
function rbee.new_view(kind, row)
  return setmetatable({}, { __index = row, __newindex = kind.refuse, __pairs = kind.pairs, kind = kind.name })
end

-- Sets one field of a row under all its names.
function rbee.set_field(kind, row, key, value)
  local nested = kind.nested[key]
  if nested and value ~= nil then value = nested(value) end
  row[key] = value
  local alias = kind.second_name[key]
  if alias then row[alias] = value end
end

function rbee.patch(kind, row, changes)
  for key, value in next, changes do
    if key == "__absent" then
      for i = 1, #value do rbee.set_field(kind, row, value[i], nil) end
    else
      rbee.set_field(kind, row, key, value)
    end
  end
end

-- Returns the kind of a view ("worker", "job", ...), or nil for anything else.
function rbee.kind_of(value)
  local meta = type(value) == "table" and metatable_of(value)
  return meta and meta.kind or nil
end

function rbee.row_of(view) return metatable_of(view).__index end

-- Returns the known name that looks most like a misspelt one, or nil when none is near (Levenshtein, up to a third).
function rbee.nearest_name(wanted, names)
  local best, best_cost
  for _, name in pairs(rbee.sorted_keys(names)) do
    local previous = {}
    for j = 0, #name do previous[j] = j end
    for i = 1, #wanted do
      local current = { [0] = i }
      for j = 1, #name do
        local cost = previous[j - 1] + (wanted:byte(i) == name:byte(j) and 0 or 1)
        if previous[j] + 1 < cost then cost = previous[j] + 1 end
        if current[j - 1] + 1 < cost then cost = current[j - 1] + 1 end
        current[j] = cost
      end
      previous = current
    end
    local cost = previous[#name]
    if cost <= (#wanted + 2) // 3 and (best_cost == nil or cost < best_cost) then best, best_cost = name, cost end
  end
  return best
end

-- Returns a value for people, never an address: addresses differ from process to process.
function rbee.shown(value)
  local kind = type(value)
  if kind == "string" then return ("%q"):format(value:sub(1, 100)) end
  if kind ~= "table" and kind ~= "function" then return tostring(value) end
  local view = rbee.kind_of(value)
  if not view then return "a " .. kind end
  local row = rbee.row_of(value)
  return view .. " " .. (rawget(row, "id") or rawget(row, "model_ref") or "")
end
