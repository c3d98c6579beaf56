-- expect: error
-- Dispatches without ids.
function schedule(context)
  return { action = "dispatch" }
end
