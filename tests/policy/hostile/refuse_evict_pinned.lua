-- expect: refused
-- Evicts the pinned.
function schedule(context)
  return evict("w3", "away")
end
