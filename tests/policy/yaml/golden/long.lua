-- determinism-first 1.0, compiled from long.yaml. Change that file, not this text.

function schedule_job(job, pools, workers)
  -- seeded jobs first (line 5, priority 100)
  if job.seed ~= nil then
    local worker = workers:with_model(job.model):available():least_loaded()
    if worker then return dispatch(job, worker, "seeded jobs first") end
  end

  -- night only (line 9, priority 50)
  if job.priority == "batch" and not string_contains(job.model, "70b") then
    local worker = workers:with_model(job.model):available():most_vram_free()
    if worker then return dispatch(job, worker, "night only") end
  end

  -- fallback (line 13)
  do
    return platform.schedule(context)
  end
end
