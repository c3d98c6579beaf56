-- expect: error
-- More decisions than may be made at all.
function schedule(context)
  local all = {}
  for i = 1, 200000 do all[i] = { action = "wait" } end
  return batch(all)
end
