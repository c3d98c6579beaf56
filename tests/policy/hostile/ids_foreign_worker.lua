-- expect: error
-- Dispatches to a worker that is not there.
function schedule(context)
  return dispatch(context.queue:first(), "w-of-somebody-else")
end
