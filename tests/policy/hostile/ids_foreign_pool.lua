-- expect: error
-- Starts a worker on a machine that is not there.
function schedule(context)
  return start_worker{ model_ref = context.queue:first().model, pool_id = "no-such-hive" }
end
