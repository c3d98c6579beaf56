-- expect: error harmless
-- An index that leads to itself, if metatables could be set.
function schedule(context)
  local t = {}
  setmetatable(t, t)
  t.__index = t
  return wait(t.x)
end
