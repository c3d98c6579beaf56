-- expect: error timeout memory
-- Recursion without end.
local function down(n) return 1 + down(n + 1) end
function schedule(context) return wait(tostring(down(0))) end
