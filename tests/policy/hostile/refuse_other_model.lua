-- expect: refused
-- Gives a job to a worker with another model.
function schedule(context)
  return dispatch(context.queue:first(), "w4")
end
