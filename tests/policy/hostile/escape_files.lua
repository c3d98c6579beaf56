-- expect: error harmless
-- Files, the network and processes.
function schedule(context)
  for _, attempt in ipairs({
    function() return io.open("/etc/passwd") end,
    function() return os.execute("id") end,
    function() return io.popen("id") end,
    function() return require("socket") end,
    function() return package.loadlib("libc.so.6", "system") end,
    function() return os.getenv("HOME") end,
  }) do
    local ok, got = pcall(attempt)
    if ok and got ~= nil then return wait("ESCAPED") end
  end
  return wait("nothing")
end
