-- expect: error
-- Returns a number.
function schedule(context)
  return 0 / 0
end
