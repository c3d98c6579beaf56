-- expect: error harmless
-- Python objects by the names lupa gives them.
function schedule(context)
  local ok, p = pcall(function() return python or __class__ or context.__class__ end)
  if ok and p then return wait("ESCAPED") end
  return wait("nothing")
end
