-- expect: timeout error memory
-- Recursion through pcall until the C stack is full, again and again.
local function down() return pcall(down) end
function schedule(context) while true do down() end end
