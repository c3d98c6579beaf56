-- How helpers are declared: each says what it takes, and is checked against it when it is called. An argument that is nil
-- is data not there yet: the helper returns nil and says so once in the log.
local error, type, select = error, type, select
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

local function kind_or_type(value) return kind_of(value) or type(value) end

local function wrong(name, place, parameter, value)
  local got = kind_of(value) and rbee.shown(value) or type(value) .. " " .. rbee.shown(value)
  if value == nil then got = "nothing" end
  error(("%s: argument %d must be a %s, got %s"):format(name, place, parameter.text:gsub("|", " or a "), got), 3)
end

-- Declares a helper. Kinds are Lua types, kinds of views, or `any`; `?` marks what may be left out.
function rbee.helper(group, name, signature, fn)
  local parameters = parse(signature)
  local count = #parameters
  rbee.helpers[name] = { group = group, signature = signature }
  rbee.api[name] = function(...)
    for i = 1, count do
      local parameter, value = parameters[i], (select(i, ...))
      local kinds = parameter.kinds
      if value == nil then
        if not parameter.optional then
          if kinds["function"] then wrong(name, i, parameter, value) end
          return rbee.note_absent(name, "its argument " .. i .. " (a " .. parameter.text .. ")")
        end
      elseif not (kinds.any or kinds[kind_or_type(value)] or kinds[type(value)]) then
        wrong(name, i, parameter, value)
      end
    end
    return fn(...)
  end
end

function rbee.alias(name, of)
  rbee.api[name] = rbee.api[of]
  rbee.helpers[name] = rbee.helpers[of]
end
