-- expect: error harmless
-- The functions a policy does not have.
function schedule(context)
  for _, name in ipairs({ "require", "load", "loadstring", "dofile", "loadfile", "collectgarbage", "rawset", "rawget" }) do
    local ok, value = pcall(function() return _ENV[name] end)
    if ok and value ~= nil then return wait("ESCAPED by " .. name) end
  end
  return wait("nothing")
end
