-- expect: load error
-- No Lua at all.
function schedule(context return end end (
