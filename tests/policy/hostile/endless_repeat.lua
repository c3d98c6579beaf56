-- expect: timeout
-- An endless loop that allocates and drops.
function schedule(context)
  repeat local t = {} until false
end
