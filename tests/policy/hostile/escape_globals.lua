-- expect: error harmless
-- The libraries a policy does not have.
function schedule(context)
  for _, name in ipairs({ "io", "os", "debug", "package", "coroutine" }) do
    local ok, value = pcall(function() return _ENV[name] end)
    if ok and value ~= nil then return wait("ESCAPED to " .. name) end
  end
  return wait("nothing")
end
