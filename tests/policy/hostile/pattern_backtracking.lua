-- expect: timeout
-- A pattern that backtracks for years inside one C call, where no hook runs.
function schedule(context)
  local text = ("a"):rep(30000)
  text:find((".-"):rep(30) .. "b")
end
