-- expect: flood timeout
-- Ten thousand decisions for three jobs.
function schedule(context)
  local all = {}
  for i = 1, 9999 do all[i] = evict("w1", ("x"):rep(900)) end
  return batch(all)
end
