-- expect: harmless
-- Decides about one job many times.
function schedule(context)
  local all, job = {}, context.queue:first()
  for i = 1, 50 do all[i] = i % 2 == 0 and dispatch(job, "w1") or wait("no", nil, job) end
  return batch(all)
end
