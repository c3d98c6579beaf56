-- expect: error
-- start_worker with fields of the wrong types.
function schedule(context)
  return { action = "start_worker", model_ref = 1, pool_id = {}, gpu_id = function() end }
end
