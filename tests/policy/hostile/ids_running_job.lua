-- expect: error
-- Rejects a job that runs.
function schedule(context)
  return reject_it and nil or { action = "reject", job_id = "job-running", reason = "no" }
end
