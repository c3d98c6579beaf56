-- expect: refused
-- Starts a model nobody has.
function schedule(context)
  return start_worker{ model_ref = "file:/no/such.gguf", pool_id = context.pools:first().id, job = context.queue:first() }
end
