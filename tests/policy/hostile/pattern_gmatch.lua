-- expect: timeout
-- The same through gmatch.
function schedule(context)
  for _ in (("a"):rep(30000)):gmatch((".-"):rep(20) .. "b") do end
end
