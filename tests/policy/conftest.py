"""A small cluster, and policies asked about it."""

import pytest

from policy_worlds import NOW, program


@pytest.fixture
def mill():
    return program()


@pytest.fixture
def value(mill):
    """Returns what an expression of a policy comes to, as text; `job` is the first of the queue."""

    def of(expression, before=""):
        source = f"""
        {before}
        local function word(it)
          if type(it) ~= "table" or tostring(it) ~= "table" then return tostring(it) end
          if it.filter == nil then return "table" end
          return "[" .. table.concat(it:map(word), ", ") .. "]"
        end
        local function words(...)
          local out = {{}}
          for place = 1, select("#", ...) do out[place] = word((select(place, ...))) end
          return table.concat(out, " ")
        end
        function schedule(context)
          local job, workers, pools = context.queue[1], context.workers, context.pools
          log_info(words({expression}))
        end"""
        assert mill.load(source, "test.lua") is None
        outcome = mill.decide(NOW, 5)
        assert outcome.error is None, outcome.error.message
        return [line.message for line in outcome.logs if line.level == "info"][-1]

    return of


@pytest.fixture
def failing(mill):
    """Returns the error a policy's body ends with."""

    def of(body, name="test.lua"):
        source = f"function schedule(context)\nlocal job, workers = context.queue[1], context.workers\n{body}\nend"
        assert mill.load(source, name) is None
        outcome = mill.decide(NOW, 5)
        assert outcome.error is not None, outcome
        assert outcome.decisions == ()
        return outcome.error.message

    return of
