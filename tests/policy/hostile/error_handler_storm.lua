-- expect: timeout error
-- Errors inside error handlers.
function schedule(context)
  local function bad() error({}) end
  while true do xpcall(bad, function() return bad() end) end
end
