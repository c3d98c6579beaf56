-- expect: timeout
-- Hangs inside a callback of a list.
function schedule(context)
  context.workers:filter(function() while true do end end)
end
