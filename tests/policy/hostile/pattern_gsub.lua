-- expect: timeout
-- The same through gsub.
function schedule(context)
  (("a"):rep(30000)):gsub(("a-"):rep(20) .. "b", "")
end
