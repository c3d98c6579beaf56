"""Which policy is in charge after what happened, and which version comes next."""

from hypothesis import given
from hypothesis import strategies as st

from queen.core.versions import PLATFORM, VERSION, PolicyActivation, Turn, charge, next_version, precedence


def log(*turns):
    """Builds a log from (turn, name) pairs; everything has version 1.0.0."""
    return [
        PolicyActivation(order, name, "1.0.0", float(order), turn, "broke" if turn is Turn.SUSPENDED else "")
        for order, (turn, name) in enumerate(turns, start=1)
    ]


def test_nothing_activated_is_the_platform_policy():
    found = charge([])
    assert (found.name, found.version, found.before, found.suspension) == (PLATFORM, "", None, "")


def test_a_rollback_goes_back_one_activation_at_a_time():
    both = log((Turn.ACTIVATED, "a"), (Turn.ACTIVATED, "b"))
    assert charge(both).name == "b"
    assert charge(both).before == ("a", "1.0.0")
    once = [*both, *log((Turn.ROLLED_BACK, "a"))]
    assert charge(once).name == "a"
    assert charge(once).before == (PLATFORM, "")
    twice = [*once, *log((Turn.ROLLED_BACK, PLATFORM))]
    assert charge(twice).name == PLATFORM
    assert charge(twice).before is None


def test_activated_again_it_is_not_its_own_predecessor():
    found = charge(log((Turn.ACTIVATED, "a"), (Turn.ACTIVATED, "b"), (Turn.ACTIVATED, "b")))
    assert found.before == ("a", "1.0.0")


def test_a_suspension_lasts_until_something_is_activated():
    suspended = log((Turn.ACTIVATED, "a"), (Turn.SUSPENDED, "a"))
    assert charge(suspended).suspension == "broke"
    assert charge(suspended).name == "a"
    assert charge([*suspended, *log((Turn.ACTIVATED, "a"))]).suspension == ""
    assert charge([*suspended, *log((Turn.ROLLED_BACK, PLATFORM))]).suspension == ""


names = st.sampled_from(["a", "b", "c"])


@given(st.lists(names, max_size=8), names)
def test_a_rollback_undoes_any_activation_of_another(before, name):
    history = log(*((Turn.ACTIVATED, one) for one in before))
    if charge(history).name == name:
        return
    undone = charge([*history, *log((Turn.ACTIVATED, name), (Turn.ROLLED_BACK, ""))])
    assert undone == charge(history)


def test_the_next_version():
    assert next_version([], "") == "1.0.0"
    assert next_version(["1.0.0", "1.0.9", "1.0.10"], "") == "1.0.11"
    assert next_version(["2.0.0-beta"], "") == "2.0.0"
    assert next_version([], "0.3") == "0.3.0"
    assert next_version(["1.0.0"], "1.2") == "1.2.0"
    assert next_version(["1.2.0"], "1.2") == "1.2.1"
    assert next_version(["1.2.0"], "not one") == "1.2.1"


numbers = st.integers(0, 999)
texts = st.builds(lambda *parts: ".".join(map(str, parts)), numbers, numbers, numbers)


@given(st.lists(texts, max_size=6), texts | st.just(""))
def test_the_next_version_is_newer_than_all(known, said):
    found = next_version(known, said)
    assert VERSION.fullmatch(found)
    assert all(precedence(found) > precedence(one) for one in known)
