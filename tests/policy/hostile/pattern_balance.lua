-- expect: timeout error
-- Balanced matches over a long text of open brackets: quadratic.
function schedule(context)
  local text = ("("):rep(300000)
  return wait(tostring(text:find("%b()")) .. tostring(text:find(("%b()"):rep(10))))
end
