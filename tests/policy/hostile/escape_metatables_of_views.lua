-- expect: error harmless
-- Through the metatables of what the queen shows.
function schedule(context)
  for _, thing in ipairs({ context, context.workers, context.workers:first(), context.queue, context.config, "text", wait }) do
    local ok, meta = pcall(getmetatable, thing)
    if ok and type(meta) == "table" then
      pcall(function() meta.__index = function() return "ESCAPED" end end)
      if thing.id == "ESCAPED" or thing.anything == "ESCAPED" then return wait("ESCAPED") end
    end
    pcall(setmetatable, thing, { __index = function() return "ESCAPED" end })
  end
  if context.workers:first().id == "ESCAPED" then return wait("ESCAPED") end
  return wait("nothing")
end
