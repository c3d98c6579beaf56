-- expect: memory timeout
-- Catches the end of memory and goes on.
function schedule(context)
  local keep = {}
  while true do pcall(function() keep[#keep + 1] = ("x"):rep(1000000) end) end
end
