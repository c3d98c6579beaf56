-- expect: timeout
-- A loop over more numbers than there is time for.
function schedule(context)
  local n = 0
  for i = 1, math.maxinteger do n = n + i end
  return wait(tostring(n))
end
