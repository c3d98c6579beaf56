-- expect: error harmless
-- Through the metatable of strings.
function schedule(context)
  local ok, meta = pcall(function() return getmetatable("") end)
  if ok and type(meta) == "table" then return wait("ESCAPED") end
  return wait("nothing")
end
