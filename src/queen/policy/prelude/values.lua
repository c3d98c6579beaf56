-- Helpers about places, text, numbers and time.
local helper, type = rbee.helper, type

local EARTH_RADIUS_KM = 6371.0088 -- mean radius, IUGG

-- Kilometres along the surface between two points in degrees (haversine formula).
function rbee.distance(lat1, lon1, lat2, lon2)
  local rad, sin, cos = math.rad, math.sin, math.cos
  local a = sin(rad(lat2 - lat1) / 2) ^ 2 + cos(rad(lat1)) * cos(rad(lat2)) * sin(rad(lon2 - lon1) / 2) ^ 2
  return 2 * EARTH_RADIUS_KM * math.asin(math.min(1, math.sqrt(a)))
end
helper("geo", "distance", "number, number, number, number", rbee.distance)

helper("text, numbers", "string_contains", "string, string", function(text, part)
  return text:find(part, 1, true) ~= nil
end)

helper("text, numbers", "string_starts_with", "string, string", function(text, start)
  return text:sub(1, #start) == start
end)

-- Each takes a list of numbers, or numbers; of none they give nil.
local function over_numbers(name, combine)
  rbee.helpers[name] = { group = "text, numbers", signature = "number|table, ..." }
  rbee.api[name] = function(first, ...)
    local numbers = type(first) == "table" and rbee.items(first) or { first, ... }
    for i = 1, #numbers do
      if type(numbers[i]) ~= "number" then
        error(("%s: argument %d must be a number, got %s"):format(name, i, rbee.shown(numbers[i])), 2)
      end
    end
    if #numbers == 0 then return nil end
    return combine(numbers)
  end
end

over_numbers("average", function(numbers)
  local total = 0
  for i = 1, #numbers do total = total + numbers[i] end
  return total / #numbers
end)
over_numbers("max", function(numbers)
  local most = numbers[1]
  for i = 2, #numbers do if numbers[i] > most then most = numbers[i] end end
  return most
end)
over_numbers("min", function(numbers)
  local least = numbers[1]
  for i = 2, #numbers do if numbers[i] < least then least = numbers[i] end end
  return least
end)

helper("time", "now", "", function() return rbee.state.now_ms end)
helper("time", "elapsed_since", "number", function(ms) return rbee.state.now_ms - ms end)
