-- expect: error
-- An error of ten megabytes.
function schedule(context)
  error(("x"):rep(10000000))
end
