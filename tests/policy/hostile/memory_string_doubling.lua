-- expect: memory timeout
-- A string that doubles.
function schedule(context)
  local s = "x"
  while true do s = s .. s end
end
