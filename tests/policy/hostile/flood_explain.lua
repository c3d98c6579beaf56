-- expect: harmless timeout
-- Explanations without end.
function schedule(context)
  for i = 1, 100000 do explain(context.workers:first(), ("x"):rep(1000)) end
  return wait("explained")
end
