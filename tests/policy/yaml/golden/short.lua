-- short, compiled from short.yaml. Change that file, not this text.

function schedule_job(job, pools, workers)
  -- images on several GPUs (line 2)
  if string_contains(job.model, "70b") and job.type == "image-gen" then
    local candidates = workers:with_model(job.model):available()
    local worker = candidates:filter(function(worker) return worker.gpus > 1 end)
      :first()
    if worker then return dispatch(job, worker, "images on several GPUs") end
  end

  -- everything else (line 5)
  do
    local candidates = workers:with_model(job.model):available()
    local worker = candidates:filter(function(worker)
      return worker.vram_free and worker.vram_free > 8192 and not worker.pinned
    end):least_loaded() or candidates:first()
    if worker then return dispatch(job, worker, "everything else") end
  end
end
