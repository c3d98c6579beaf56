-- expect: memory timeout error
-- table.concat of many long strings.
function schedule(context)
  local t = {}
  for i = 1, 1000 do t[i] = ("x"):rep(100000) .. i end
  return wait(table.concat(t))
end
