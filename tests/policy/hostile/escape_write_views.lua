-- expect: error harmless
-- Writing to what is read-only.
function schedule(context)
  local ok = pcall(function() context.workers:first().slots_available = 99 end)
  if ok and context.workers:first().slots_available == 99 then return wait("ESCAPED") end
  pcall(function() context.queue[1] = nil end)
  pcall(function() context.helpers.find_worker = error end)
  return wait("nothing")
end
