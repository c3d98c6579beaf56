-- expect: error
-- reject with a table as reason.
function schedule(context)
  return { action = "reject", job_id = context.queue:first().id, reason = {} }
end
