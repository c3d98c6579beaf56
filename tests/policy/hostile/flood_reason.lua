-- expect: harmless error
-- One reason of ten megabytes.
function schedule(context)
  return wait(("x"):rep(10000000))
end
