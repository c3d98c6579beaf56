-- expect: error harmless
-- Python by the attributes of what there is.
function schedule(context)
  for _, thing in ipairs({ schedule, wait, context, context.workers, context.queue, dispatch }) do
    for _, name in ipairs({ "__globals__", "__builtins__", "__subclasses__", "__init__" }) do
      local ok, value = pcall(function() return thing[name] end)
      if ok and value ~= nil then return wait("ESCAPED by " .. name) end
    end
  end
  return wait("nothing")
end
