-- expect: harmless timeout memory
-- Log lines without end.
function schedule(context)
  for i = 1, 100000 do log_error(("x"):rep(1000) .. i) end
  return wait("logged")
end
