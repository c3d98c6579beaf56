-- expect: harmless timeout
-- Metrics without end.
function schedule(context)
  for i = 1, 100000 do emit_metric(("m"):rep(100) .. i, i) end
  return wait("measured")
end
