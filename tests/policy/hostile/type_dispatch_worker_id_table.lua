-- expect: error
-- dispatch with a worker_id of the wrong type.
function schedule(context)
  return { action = "dispatch", job_id = context.queue:first().id, worker_id = "w1", worker_id = {} }
end
