-- expect: memory timeout
-- Closures without end.
function schedule(context)
  local f = function() end
  while true do local g = f; f = function() return g() end end
end
