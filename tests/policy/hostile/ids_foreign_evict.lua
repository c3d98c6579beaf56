-- expect: error
-- Evicts a worker that is not there.
function schedule(context)
  return evict("nobody")
end
