-- expect: error
-- batch whose actions are no list.
function schedule(context)
  return { action = "batch", actions = "all of them" }
end
