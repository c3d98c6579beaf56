-- expect: timeout error
-- A handler that hangs where the error is handled.
function schedule(context)
  while true do
    xpcall(function() while true do end end, function() while true do end end)
  end
end
