"""However rows come and go, what policies see is what a state built at once would show."""

from hypothesis import given, settings
from hypothesis import strategies as st

from policy_worlds import NOW, PLATFORM
from queen.policy.language import Program

CHECK = """
local function ids(list) return table.concat(list:map(function(each) return each.id end), " ") end
function schedule(context)
  log_info(ids(context.workers))
  for n = 0, 2 do log_info(ids(find_workers_by_model("m" .. n))) end
  for n = 0, 2 do log_info(ids(context.workers:in_pool("p" .. n))) end
  for _, pool in ipairs(context.pools) do log_info(pool.id .. ": " .. ids(pool.workers)) end
  log_info(ids(context.queue))
end
"""
KEYS = st.integers(0, 6).map("k{}".format)
WORKER = st.fixed_dictionaries(
    {}, optional={"model": st.sampled_from(["m0", "m1", "m2"]), "pool_id": st.sampled_from(["p0", "p1", "p2"])}
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, WORKER),
        st.tuples(st.just("remove"), KEYS, st.none()),
        st.tuples(st.just("decide"), KEYS, st.none()),
    ),
    max_size=40,
)


def seen(program):
    assert program.load(CHECK, "check.lua") is None
    outcome = program.decide(NOW, 1)
    assert outcome.error is None, outcome.error
    return [line.message for line in outcome.logs]


def empty():
    program = Program()
    assert program.load_platform(PLATFORM) is None
    for pool in ("p0", "p1", "p2"):
        program.put("pools", pool, {"status": "healthy", "ram_free_mb": 1000, "cached_models": ["m0", "m1", "m2"]})
    program.put("jobs", "j", {"model": "m0", "priority": "interactive"})
    program.put("jobs", "new", {"model": "m1", "priority": "interactive"})
    program.queue(["j", "new"])
    return program


@settings(max_examples=80, deadline=None)
@given(STEPS)
def test_patched_and_built_are_the_same(steps):
    patched, rows = empty(), {}
    for step, key, fields in steps:
        if step == "put":
            new = {} if key in rows else {"status": "ready", "slots_total": 1, "slots_available": 1, "in_flight": 0}
            patched.put("workers", key, {**new, **fields})
            rows.setdefault(key, {}).update({**new, **fields})
        elif step == "remove":
            patched.remove("workers", key)
            rows.pop(key, None)
        else:  # what a cycle promises is gone after it
            assert patched.decide_platform(NOW, 1).error is None
    built = empty()
    for key in sorted(rows, reverse=True):
        built.put("workers", key, rows[key])
    assert seen(patched) == seen(built)
    expected = sorted(rows)
    assert seen(patched)[0] == " ".join(expected)
    assert seen(patched)[1] == " ".join(key for key in expected if rows[key].get("model") == "m0")
