-- expect: memory error timeout
-- Widths a format must not have.
function schedule(context)
  return wait(("%99.99f"):rep(10000):format(1))
end
