-- expect: error
-- Dispatches a job that is not there.
function schedule(context)
  return dispatch("job-of-somebody-else", "w1")
end
