-- expect: load error harmless
-- A chunk that swaps its own environment.
local _ENV = { wait = wait }
function schedule(context) return wait("nothing") end
