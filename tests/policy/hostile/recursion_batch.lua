-- expect: error
-- A batch that holds itself.
function schedule(context)
  local b = { action = "batch" }
  b.actions = { b }
  return b
end
