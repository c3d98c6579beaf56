-- expect: error harmless
-- Bytecode.
function schedule(context)
  local ok, code = pcall(function() return string.dump(schedule) end)
  if ok and code then return wait("ESCAPED") end
  return wait("nothing")
end
