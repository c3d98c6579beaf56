-- expect: harmless
-- Asks to be asked again at once, always.
function schedule(context)
  return wait("again", 0)
end
