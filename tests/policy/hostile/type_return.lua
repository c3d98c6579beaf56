-- expect: error
-- Returns a function.
function schedule(context)
  return function() end
end
