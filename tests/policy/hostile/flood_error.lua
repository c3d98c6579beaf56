-- expect: error timeout
-- An error of ten megabytes; on a busy machine it may not be told in time.
function schedule(context)
  error(("x"):rep(10000000))
end
