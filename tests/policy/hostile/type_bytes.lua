-- expect: error harmless
-- Texts that are no UTF-8, and zero bytes.
function schedule(context)
  return { action = "wait", reason = "\xff\xfe\0\x80" }
end
