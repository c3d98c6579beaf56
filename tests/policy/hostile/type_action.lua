-- expect: error
-- An action nobody knows.
function schedule(context)
  return { action = "format_disk", job_id = context.queue:first().id }
end
