-- expect: timeout
-- A comparison that never ends, inside sort.
function schedule(context)
  table.sort({ 1, 2, 3 }, function() while true do end end)
end
