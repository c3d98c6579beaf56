-- expect: memory error
-- One string of a gigabyte.
function schedule(context)
  local s = ("x"):rep(2 ^ 30 // 1)
  return wait(#s)
end
