-- expect: timeout
-- An endless loop without a loop.
function schedule(context)
  ::again::
  goto again
end
