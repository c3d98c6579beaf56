-- expect: timeout
-- Hangs on the first job.
function schedule_job(job, pools, workers)
  while true do end
end
