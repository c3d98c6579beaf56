-- expect: refused
-- Gives every job to the same worker.
function schedule(context)
  local all = {}
  for _, job in ipairs(context.queue) do all[#all + 1] = dispatch(job, "w1") end
  return batch(all)
end
