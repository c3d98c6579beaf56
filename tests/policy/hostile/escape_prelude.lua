-- expect: error harmless
-- The functions the queen calls.
function schedule(context)
  local ok, f = pcall(function() return rbee_put or rbee_load or rbee end)
  if ok and f then return wait("ESCAPED") end
  return wait("nothing")
end
