-- expect: timeout
-- A replacement function that hangs.
function schedule(context)
  ("x"):gsub(".", function() while true do end end)
end
