-- expect: error
-- evict with a number.
function schedule(context)
  return { action = "evict", worker_id = 1.5 }
end
