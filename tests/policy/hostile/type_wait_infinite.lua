-- expect: error
-- A time to wait that is no time.
function schedule(context)
  return { action = "wait", reason = "x", retry_after_ms = -1 / 0 }
end
