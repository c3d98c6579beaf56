-- expect: timeout
-- Nested pcalls: each level catches what the level below raised.
local function storm(depth)
  if depth == 0 then while true do end end
  while true do pcall(storm, depth - 1) end
end
function schedule(context) storm(100) end
