-- expect: refused
-- Evicts the busy.
function schedule(context)
  local all = {}
  for _, worker in ipairs(context.workers) do
    if worker.in_flight > 0 then all[#all + 1] = evict(worker, "away") end
  end
  return batch(all)
end
