-- expect: error
-- schedule_job returns a list of jobs.
function schedule_job(job, pools, workers) return { job, job } end
