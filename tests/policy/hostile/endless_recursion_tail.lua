-- expect: timeout
-- Tail calls never run out of stack.
local function again(n) return again(n + 1) end
function schedule(context) return again(0) end
