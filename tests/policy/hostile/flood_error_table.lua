-- expect: error
-- An error that is no text.
function schedule(context)
  error(setmetatable and {} or {})
end
