-- expect: memory timeout
-- A table without end.
function schedule(context)
  local t = {}
  while true do t[#t + 1] = { #t } end
end
