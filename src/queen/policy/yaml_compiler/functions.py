"""Small Lua functions that a compiled policy brings along where it needs them."""

from __future__ import annotations

from typing import Final

FUNCTIONS: Final = {
    "one_of": """
-- Whether a value is one of these.
local function one_of(value, list)
  for _, each in ipairs(list) do
    if value == each then return true end
  end
  return false
end
""",
    "has_item": """
-- Whether a list has this item.
local function has_item(list, item)
  for _, each in ipairs(list) do
    if each == item then return true end
  end
  return false
end
""",
    "matches": """
-- Whether a text is these pieces in this order, with anything between them.
local function matches(text, pieces)
  local first, last = pieces[1], pieces[#pieces]
  if #text < #first + #last or string.sub(text, 1, #first) ~= first then return false end
  local from, to = #first + 1, #text - #last
  if string.sub(text, to + 1) ~= last then return false end
  for index = 2, #pieces - 1 do
    local _, found = string.find(text, pieces[index], from, true)
    if not found or found > to then return false end
    from = found + 1
  end
  return true
end
""",
    "minute_of_day": """
-- Minutes since midnight, {zone}.
local function minute_of_day()
  return {minutes} % 1440
end
""",
    "day_of_week": """
-- The day of the week, {zone}; 1970-01-01 was a Thursday.
local function day_of_week()
  local days = {{ "thu", "fri", "sat", "sun", "mon", "tue", "wed" }}
  return days[{minutes} // 1440 % 7 + 1]
end
""",
    "may_go": """
-- Whether an idle worker may be evicted: it is not pinned and has been there long enough.
local function may_go(worker)
  return not worker.pinned and (worker.min_residency_until_ms or 0) <= now()
end
""",
    "is_loading": """
local function is_loading(worker)
  return worker.status == "loading"
end
""",
}
"""By name, in the order they are written."""


def written(names: set[str], utc_offset_min: int) -> list[str]:
    """Returns the lines of some functions, each after an empty line. The offset is in minutes east of UTC."""
    sign = "-" if utc_offset_min < 0 else "+"
    hours, minutes = divmod(abs(utc_offset_min), 60)
    zone = f"at UTC{sign}{hours:02}:{minutes:02}" if utc_offset_min else "in UTC"
    since = f"(now() // 60000 {sign} {abs(utc_offset_min)})" if utc_offset_min else "now() // 60000"
    lines: list[str] = []
    for name, text in FUNCTIONS.items():
        if name in names:
            lines += ["", *text.format(zone=zone, minutes=since).strip().splitlines()]
    return lines
