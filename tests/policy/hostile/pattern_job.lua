-- expect: timeout
-- A bomb for every job.
function schedule_job(job, pools, workers)
  return ("a"):rep(30000):find((".-"):rep(30) .. "b")
end
