-- expect: error timeout
-- Batches in batches, deeper than the stack.
function schedule(context)
  local b = wait("x")
  for i = 1, 100000 do b = { action = "batch", actions = { b } } end
  return b
end
