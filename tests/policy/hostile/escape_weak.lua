-- expect: error harmless
-- Weak tables and to-be-closed variables.
function schedule(context)
  local ok = pcall(function() return setmetatable({}, { __mode = "k" }) end)
  local closes = pcall(function() return setmetatable({}, { __close = function() end }) end)
  if ok or closes then return wait("ESCAPED") end
  return wait("nothing")
end
