-- How helpers are declared: each says what it takes, and is checked against it when it is called. An argument that is nil
-- is data not there yet: the helper returns nil and says so once in the log.
local error, type = error, type
local kind_of = rbee.kind_of

rbee.api = {} -- what policies see as globals
rbee.helpers = {} -- name -> {group=, signature=}; the document of helpers is held against it

-- Logs once per policy that a helper's data is not there; returns nil.
function rbee.note_absent(name, what)
  local text = name .. " returned nil: " .. what .. " is not known"
  if what:find(" is known of none", 1, true) then text = name .. " returned nil: " .. what end
  if not rbee.noted[text] then
    rbee.noted[text] = true
    rbee.log("warn", text)
  end
  return nil
end

-- "job, worker?, model|string" -> {{text=, optional=, kinds={...}}, ...}
local function parse(signature)
  local out = {}
  for text in signature:gmatch("[^,%s]+") do
    local parameter = { text = text:gsub("%?$", ""), optional = text:sub(-1) == "?", kinds = {} }
    for kind in parameter.text:gmatch("[^|]+") do parameter.kinds[kind] = true end
    out[#out + 1] = parameter
  end
  return out
end

local function wrong(name, place, parameter, value)
  local got = kind_of(value) and rbee.shown(value) or type(value) .. " " .. rbee.shown(value)
  if value == nil then got = "nothing" end
  error(("%s: argument %d must be a %s, got %s"):format(name, place, parameter.text:gsub("|", " or a "), got), 4)
end

-- Returns true when an argument is data that is not there yet; raises when it is wrong.
local function is_missing(name, place, parameter, value)
  local kinds = parameter.kinds
  if value == nil then
    if parameter.optional then return false end
    if kinds["function"] then wrong(name, place, parameter, value) end
    rbee.note_absent(name, ("its argument %d (a %s)"):format(place, parameter.text))
    return true
  end
  local is = type(value)
  if not (kinds[is] or kinds.any or (is == "table" and kinds[kind_of(value)])) then wrong(name, place, parameter, value) end
  return false
end

-- Declares a helper. Kinds are Lua types, kinds of views, or `any`; `?` marks what may be left out. At most four.
function rbee.helper(group, name, signature, fn)
  local parameters = parse(signature)
  local first, second, third, fourth = parameters[1], parameters[2], parameters[3], parameters[4]
  rbee.helpers[name] = { group = group, signature = signature }
  rbee.api[name] = function(a, b, c, d)
    if first and is_missing(name, 1, first, a) then return nil end
    if second and is_missing(name, 2, second, b) then return nil end
    if third and is_missing(name, 3, third, c) then return nil end
    if fourth and is_missing(name, 4, fourth, d) then return nil end
    return fn(a, b, c, d)
  end
end

function rbee.alias(name, of)
  rbee.api[name] = rbee.api[of]
  rbee.helpers[name] = rbee.helpers[of]
end
