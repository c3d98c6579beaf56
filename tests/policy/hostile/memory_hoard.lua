-- expect: memory timeout error
-- Keeps everything between cycles.
local hoard = {}
function schedule(context)
  for i = 1, 200 do hoard[#hoard + 1] = ("x"):rep(1000000) .. #hoard end
  return wait("hoarding")
end
