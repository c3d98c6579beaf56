-- expect: error harmless
-- Raw writes through the table library.
function schedule(context)
  local ok = pcall(table.insert, context.queue, { id = "job-x" })
  pcall(table.remove, context.queue, 1)
  pcall(table.sort, context.queue, function() return false end)
  pcall(table.move, context.queue, 1, 5, 2)
  local first = context.queue:first()
  if first == nil or first.id == "job-x" then return wait("ESCAPED") end
  return wait("nothing")
end
