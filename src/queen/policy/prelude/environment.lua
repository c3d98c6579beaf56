-- The world a policy runs in: a whitelist of Lua's own functions, safe forms of the dangerous ones, and the helpers.
-- Nothing here leads back to the trusted side: no raw access, no loaders, no metatables of views, no Python.
local error, type, select, setmetatable, tostring = error, type, select, setmetatable, tostring
local metatable_of, next, pairs, pcall = debug.getmetatable, next, pairs, pcall
local string, table, math, utf8 = string, table, math, utf8
local api, shown = rbee.api, rbee.shown

-- Metatables: a policy's tables may have them, its views may not be touched. What is installed is a copy made once, so
-- that fields added later have no effect.

local copies = setmetatable({}, { __mode = "k" }) -- a policy's metatable -> the installed copy
local originals = setmetatable({}, { __mode = "k" })
local refused = { "__gc", "__close", "__mode", "__name", "__metatable" }

local function safe_setmetatable(t, meta)
  if type(t) ~= "table" then error("setmetatable takes a table, got " .. shown(t), 2) end
  local present = metatable_of(t)
  if present and not originals[present] then error("setmetatable: this table is not the policy's own", 2) end
  if meta == nil then return setmetatable(t, nil) end
  if type(meta) ~= "table" or (metatable_of(meta) and not originals[metatable_of(meta)]) then
    error("setmetatable takes a plain table as metatable, got " .. shown(meta), 2)
  end
  local copy = copies[meta]
  if copy == nil then
    for i = 1, #refused do
      if rawget(meta, refused[i]) ~= nil then error("setmetatable: " .. refused[i] .. " is not allowed", 2) end
    end
    copy = {}
    for key, value in next, meta do
      if type(key) == "string" and key:sub(1, 2) == "__" then copy[key] = value end
    end
    copies[meta], originals[copy] = copy, meta
  end
  return setmetatable(t, copy)
end

local function safe_getmetatable(t)
  if type(t) ~= "table" then return nil end
  local present = metatable_of(t)
  return present and originals[present] or nil
end

-- Texts never show addresses, which differ from process to process.
local function safe_tostring(value)
  local kind = type(value)
  if kind == "table" then
    local meta = metatable_of(value)
    if meta and originals[meta] and meta.__tostring then return tostring(value) end
    return rbee.kind_of(value) and shown(value) or "table"
  end
  return kind == "function" and "function" or tostring(value)
end

-- Pairs come in one order everywhere: numbers, then strings, then the rest.
local function safe_pairs(t)
  local meta = type(t) == "table" and metatable_of(t)
  if meta and meta.__pairs then return meta.__pairs(t) end
  if type(t) ~= "table" then error("pairs takes a table, got " .. shown(t), 2) end
  return rbee.each(rbee.sorted_keys(t), function(key) return rawget(t, key) end)
end

local function safe_next(t, key)
  if key ~= nil then error("next tells only whether a table is empty; iterate with pairs", 2) end
  return safe_pairs(t)()
end

-- An error caught after the deadline is raised again. The hook alone would not do: at the limit of nested calls it cannot
-- run, and a function that catches that error and tries again would stay there for ever.
local function after(ok, ...)
  if not ok then rbee.check_deadline() end
  return ok, ...
end
local function safe_pcall(fn, ...) return after(pcall(fn, ...)) end

-- Strings: no bytecode, and no loop in C that a huge count of nothing would drive.
local strings = {}
for _, name in pairs({ "byte", "char", "find", "gmatch", "gsub", "len", "lower", "match", "reverse", "sub", "upper" }) do
  strings[name] = string[name]
end
function strings.rep(text, count, separator)
  if #text == 0 and (separator == nil or #separator == 0) then return "" end
  return string.rep(text, count, separator)
end
function strings.format(form, ...)
  if form:find("%%[-+ #0-9.]*p") then error("string.format: %p shows addresses, which differ between runs", 2) end
  local values, n = { ... }, select("#", ...)
  for i = 1, n do
    if type(values[i]) == "table" or type(values[i]) == "function" then values[i] = safe_tostring(values[i]) end
  end
  return string.format(form, table.unpack(values, 1, n))
end
metatable_of("").__index = strings
metatable_of("").__metatable = false

local function chosen(library, names)
  local out = {}
  for name in names:gmatch("%S+") do out[name] = library[name] end
  return out
end
local tables = chosen(table, "concat insert pack remove sort unpack")
-- These two move every element up to #t in C, where no deadline is seen: a length of one's own making could be anything.
for _, name in pairs({ "insert", "remove" }) do
  local change = table[name]
  tables[name] = function(t, ...)
    local meta = type(t) == "table" and metatable_of(t)
    if meta and originals[meta] and meta.__len then error("table." .. name .. ": this table has a __len of its own", 2) end
    return change(t, ...)
  end
end
local numbers = chosen(math, [[abs ceil floor sqrt sin cos tan asin acos atan exp log fmod modf huge pi max min maxinteger
  mininteger tointeger type ult rad deg random]])
local texts = chosen(utf8, "char charpattern codepoint codes len offset")

local base = {
  assert = assert, error = error, ipairs = ipairs, next = safe_next, pairs = safe_pairs, pcall = safe_pcall, select = select,
  tonumber = tonumber, tostring = safe_tostring, type = type, setmetatable = safe_setmetatable,
  getmetatable = safe_getmetatable, _VERSION = _VERSION, string = rbee.freeze(strings, "string"),
  table = rbee.freeze(tables, "table"), math = rbee.freeze(numbers, "math"), utf8 = rbee.freeze(texts, "utf8"),
}
for name, value in next, base do
  if api[name] == nil then api[name] = value end
end

-- Returns a fresh environment: its globals are its own, everything else is looked up in the shared, unreachable table.
function rbee.new_environment()
  return setmetatable({}, { __index = api, __metatable = false, __name = "_ENV" })
end

-- After a policy is loaded it keeps no state: new globals are refused, so that the same state gives the same decision.
function rbee.close_environment(environment)
  metatable_of(environment).__newindex = function(_, name)
    error(("global %s is set inside a function; write `local %s`"):format(shown(name), tostring(name)), 2)
  end
end

local function keys_of(map)
  local out, sorted = {}, rbee.sorted_keys(map)
  for i = 1, #sorted do out[i] = sorted[i] end
  return out
end

-- Everything a policy can name: kinds with their fields, helpers with what they take, methods of lists, names of Lua.
function rbee_vocabulary()
  local kinds = {}
  for name, kind in pairs(rbee.kinds) do
    kinds[name] = { fields = kind.fields, raw = kind.raw, aliases = kind.aliases }
  end
  local libraries = {}
  for library, names in pairs({ string = strings, table = tables, math = numbers, utf8 = texts }) do
    libraries[library] = keys_of(names)
  end
  return {
    kinds = kinds, helpers = rbee.helpers, methods = keys_of(rbee.list_methods), lua = keys_of(base),
    names = keys_of(api), libraries = libraries,
  }
end
