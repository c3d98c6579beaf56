-- expect: load timeout
-- Never finishes loading.
while true do end
function schedule(context) end
