-- expect: error harmless
-- Code that runs when garbage is collected.
function schedule(context)
  local ran = false
  local ok = pcall(function()
    setmetatable({}, { __gc = function() while true do end end })
  end)
  for i = 1, 10000 do local t = { {} } end
  return wait(ok and "ESCAPED" or "nothing")
end
