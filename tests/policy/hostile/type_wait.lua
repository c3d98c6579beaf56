-- expect: error
-- wait with fields of the wrong types.
function schedule(context)
  return { action = "wait", reason = {}, retry_after_ms = "soon" }
end
