-- expect: error harmless
-- A decision whose fields are computed when they are read.
function schedule(context)
  local ok, trap = pcall(setmetatable, { action = "wait" }, { __index = function() while true do end end })
  return ok and trap or wait("nothing")
end
