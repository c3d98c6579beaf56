-- expect: load error
-- Defines nothing.
local x = 1
