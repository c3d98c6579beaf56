-- expect: timeout
-- A bomb inside pcall inside a loop.
function schedule(context)
  while true do
    pcall(string.find, ("a"):rep(30000), (".-"):rep(20) .. "b")
  end
end
