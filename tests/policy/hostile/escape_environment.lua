-- expect: error harmless
-- Through _G, and by poisoning it.
function schedule(context)
  local ok, g = pcall(function() return _G end)
  if ok and g and g.rbee_put then return wait("ESCAPED") end
  pcall(function() _G.pairs = nil end)
  pcall(function() pairs = nil end)
  return wait("nothing")
end
