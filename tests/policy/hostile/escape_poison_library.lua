-- expect: error
-- Changing the library for the platform policy that runs next.
function schedule(context)
  for _, t in ipairs({ string, table, math }) do
    for name in pairs(t) do pcall(function() t[name] = function() return "ESCAPED" end end) end
  end
  wait = nil
  dispatch = nil
  error("and now the platform policy")
end
