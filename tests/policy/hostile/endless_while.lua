-- expect: timeout
-- An endless loop.
function schedule(context)
  while true do end
end
