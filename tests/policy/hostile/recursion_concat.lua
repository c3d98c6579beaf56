-- expect: error timeout
-- A deeply nested expression in the middle of a pattern.
function schedule(context)
  return wait(("("):rep(40):find(("("):rep(40)))
end
