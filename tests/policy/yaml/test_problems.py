"""Everything that can be wrong is named with its place, what was expected, and the nearest name."""

import pytest

from queen.policy import yaml_compiler
from queen.policy.yaml_compiler import document

RULE = "rules:\n  - name: a\n    condition: {condition}\n    action: {action}\n"


def problems(text):
    found = yaml_compiler.compile(text, "mine.yaml")
    fatal = any(problem.fatal for problem in found.problems)
    assert bool(found.lua) is not fatal
    for problem in found.problems:
        if problem.line and text:
            assert problem.source_line == text.splitlines()[problem.line - 1][:500]
    return [(problem.line, problem.column, problem.message) for problem in found.problems]


def in_condition(condition):
    return problems(RULE.replace("{condition}", condition).replace("{action}", "wait"))


def in_action(action):
    return problems(RULE.replace("{condition}", "{model: m}").replace("{action}", action))


@pytest.mark.parametrize(
    ("condition", "column", "message"),
    [
        ("{job.priorty: batch}", 17, 'there is no field "job.priorty"; did you mean job.priority?'),
        ("{prioritty: batch}", 17, "did you mean priority?"),
        ("{vram_free: 3}", 17, "did you mean worker.vram_free?"),
        ("{job.pinned: true}", 17, "did you mean worker.pinned?"),
        ("{zzzzz: 3}", 17, 'there is no field "zzzzz"; expected all, any, not'),
        ("{job.zzzzz: 3}", 17, 'there is no field "job.zzzzz"; expected job.'),
        ("{job.labels: x}", 17, "expected the name of a label: job.labels.NAME"),
        ("{contains: 70b}", 17, 'the operator "contains" stands under a field'),
        ("{job.model: {contians: x}}", 29, 'there is no operator "contians"; did you mean contains?'),
        ("{job.model: {gt: 3}}", 29, '"gt" does not fit job.model, a text; expected exists, eq'),
        ("{job.model: {}}", 28, "expected an operator under job.model"),
        ("{job.model: []}", 28, "expected a list of values, got an empty list"),
        ("{job.model: {in: x}}", 33, "expected a list of values, got the text 'x'"),
        ("{job.priority: btach}", 31, 'there is no value "btach"; did you mean batch?'),
        ("{job.priority: [batch, x]}", 39, "expected interactive or batch"),
        ("{job.max_tokens: many}", 33, "expected a number, got the text 'many'"),
        ("{worker.vram_free: 8Gb}", 35, "expected a size such as 8GB or 512MB, or a number of megabytes, got the text"),
        ("{worker.idle_ms: 8GB}", 33, "expected a duration such as 500ms"),
        ("{worker.pinned: on}", 32, "expected true or false, got the text 'on'; write true"),
        ("{worker.pinned: no}", 32, "write false"),
        ("{job.seed: null}", 27, "a field that is absent is asked for by { exists: false }"),
        ("{job.seed: {ne: }}", 31, "asked for by { exists: true }"),
        ("{job.model: {contains: [a]}}", 39, "expected a text, got a list"),
        ('{job.model: {matches: "^x.*$"}}', 38, "in which * stands for anything"),
        ("{job.model: {matches: true}}", 38, "expected a text, got true"),
        ("{hours: 9-17}", 24, 'expected hours such as "09:00-17:30"'),
        ("{hours: 09:00-09:00}", 24, "expected hours such as"),
        ("{days: [mon, fry]}", 29, "expected days such as mon-fri"),
        ("{all: []}", 22, 'expected a list of conditions under "all", got an empty list'),
        ("{any: {model: x}}", 22, 'expected a list of conditions under "any", got a mapping'),
        ("{not: 3}", 22, "expected a condition (a mapping, an expression"),
        ("{}", 16, 'write "always"'),
        ("3", 16, "got the number 3"),
        ("{model: x, [a]: 3}", 27, "expected a name before the colon, got a list"),
        ("{model: a, model: b}", 27, '"model" stands here twice, first in line 3'),
        ("{model: x, <<: 3}", 27, "merge keys (<<) are not read"),
        ("!!str always", 16, "tags such as tag:yaml.org,2002:str are not read"),
        # expressions
        ("job.priority == 'btach'", 32, 'there is no value "btach"; did you mean batch?'),
        ("workers", 16, "expected a condition, which is true or false; this gives a list of workers"),
        ("job.modle == 'x'", 20, 'there is no field of a job "modle"; did you mean model?'),
        ("jbo.model == 'x'", 16, 'there is no name "jbo"; did you mean job?'),
        ("job.model > 3", 26, '">" cannot compare a number with a text'),
        ("job.seed == 'x'", 25, '"==" cannot compare'),
        ("job.labels == nil", 27, None),
        ("job.model = 'x'", 26, '"=" cannot stand here; write "==" to compare'),
        ("job.model == 'x", 29, "the quote is not closed"),
        ("workers:idle()", 23, 'write "." before a method'),
        ("workers.idle(", 28, 'expected ")" or a value after this'),
        ("workers.idle().", 30, "expected a name after this"),
        ("workers.idel().is_empty()", 24, 'there is no method of a list of workers "idel"; did you mean idle?'),
        ("workers.idle(3).is_empty()", 24, "idle(...) takes nothing; got 1 arguments"),
        ("workers.with_model(3).is_empty()", 35, "with_model(...) takes a text, got a number"),
        ("workers.with_capacity(8h).is_empty()", 38, "expected a size such as 8GB"),
        ("workers.filter(gpus).is_empty()", 31, "filter(...) takes a condition on each, got a number"),
        ("workers.min_by(device) != nil", 31, "min_by(...) takes a field of each that is a number, got a text"),
        ("workers.first().gpus > 1", 32, "there may be no such worker"),
        ("workers.idle.count() > 1", 24, "a list of workers has no fields; methods are called: .idle(...)"),
        ("job.count() > 1", 20, "a job has no methods"),
        ("job.model in ['x'] and gpus > 1", 39, 'there is no name "gpus"'),
        ("job.model in job.id", 26, '"in" needs a text and a list of texts'),
        ("job.model and job.seed", 20, '"and" joins conditions, got a text'),
        ("not workers.first()", 28, '"not" joins conditions, got a worker; is it there? write != nil'),
        ("worker.vram_free > 8parsec", 35, "expected a size such as 8GB"),
        ("1 < 2 < 3", 22, "expected"),
        ("((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((1", 16, "the expression is too long"),
    ],
)  # fmt: skip
def test_conditions(condition, column, message):
    found = in_condition(condition)
    if message is None:
        assert found == []
        return
    assert [(line, at) for line, at, _ in found] == [(3, column)], found
    assert message in found[0][2]


@pytest.mark.parametrize(
    ("action", "column", "message"),
    [
        ("{dispach: {}}", 14, 'there is no action "dispach"; did you mean dispatch?'),
        ("{dispatch: {worker_selektion: first}}", 25, "did you mean worker_selection?"),
        ("{dispatch: {worker_selection: least_loadet}}", 43, "did you mean least-loaded?"),
        ("{dispatch: {model_match: maybe}}", 38, "expected required or any"),
        ("{dispatch: first}", 24, "expected { worker_selection: ..., model_match: ... } under dispatch"),
        ("{wait: {duration_ms: soon}}", 34, "expected a duration such as 500ms"),
        ("{wait: {duration_ms: 2d}}", 34, "of at most a day"),
        ("{wait: {duration_ms: -1}}", 34, "of at most a day"),
        ("{wait: {reason: true}}", 29, "expected a text, got true"),
        ("{reject: }", 14, 'reject needs "reason"'),
        ("reject", 13, "expected one action"),
        ("{evict: {policy: lur}}", 30, 'there is no value "lur"; did you mean lru?'),
        ("{use: platform}", 19, "did you mean platform-scheduler?"),
        ("{wait: {}, reject: {reason: x}}", 13, "expected one action, of dispatch, select, wait"),
        ("{select: 3}", 22, "expected an expression"),
        ("{select: workers}", 22, "expected one worker; this gives a list of workers; add .first()"),
        ("{select: workers.count()}", 22, "expected one worker; this gives a number"),
        ("{select: 'workers.filter(gpu > 1).first()'}", 38, 'there is no name "gpu"; did you mean gpus?'),
        ("{select: worker}", 22, 'there is no name "worker"'),
    ],
)  # fmt: skip
def test_actions(action, column, message):
    found = in_action(action)
    assert [(line, at) for line, at, _ in found] == [(4, column)], found
    assert message in found[0][2]


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("", 1, 1, "expected a policy"),
        ("- a", 1, 1, "got a list"),
        ("rules: 3", 1, 8, "expected a list of rules, got the number 3"),
        ("rules: []", 1, 8, "got an empty list"),
        ("rules: [3]", 1, 9, "expected a rule: a mapping with name, condition and action"),
        ("name: x", 1, 1, 'expected "rules"'),
        ("scheduler: 3", 1, 12, 'expected a mapping with "rules" under "scheduler"'),
        ("scheduler: {rulez: []}", 1, 13, 'there is no field of scheduler "rulez"; did you mean rules?'),
        ("rules: &a [*a]", 1, 12, "there is no finished anchor &a above this alias"),
        ("rules: *x", 1, 8, "there is no finished anchor &x"),
        ("rules: [", 1, 9, "this is not YAML"),
        ("rules:\n\t- name: a\n", 2, 1, "a tab cannot indent YAML; use spaces"),
        ("rules: a: b", 1, 9, '": " cannot stand here'),
        ("rules: 'a", 1, 10, "expected a closing quote"),
        ("rules: @a", 1, 8, 'a text that begins with "@" needs quotes'),
        ("rules: \x07", 1, 8, "the character 7 cannot stand in YAML"),
        ("[" * 5000, 1, 34, "nested deeper than 32 levels"),
        ("x" * (document.MOST_BYTES + 1), 0, 0, "larger than 1 MiB"),
        ("rules: [" + "a, " * document.MOST_NODES + "a]", 1, 30000, "more than 10,000 values"),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_documents(text, line, column, message):
    found = problems(text)
    assert any((at_line, at_column) == (line, column) and message in told for at_line, at_column, told in found), found


def test_an_alias_bomb_goes_off_harmlessly():
    levels = ["l0: &l0 [a, a, a, a, a, a, a, a, a, a]"]
    levels += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 30)]
    assert any("aliases counted as often as they are used" in told for _, _, told in problems("\n".join(levels)))


def test_an_alias_stands_for_what_it_names():
    text = "rules:\n  - {name: a, condition: &c {model: x}, action: wait}\n  - {name: b, condition: *c, action: wait}\n"
    found = yaml_compiler.compile(text, "x.yaml")
    assert found.problems == ()
    assert found.lua.count('if job.model == "x" then') == 2


def test_every_fault_is_told_at_once_in_the_order_of_the_text():
    text = """\
rules:
  - name: a
    condition: {job.priorty: batch, worker.vram_fre: {gt: 8GB}, all: [{modle: x}]}
    action: {dispatch: {worker_selection: lest-loaded}}
    priority: high
  - action: {selekt: x}
    conditon: always
version: one
extra: 3
"""
    found = problems(text)
    assert [line for line, _, _ in found] == [3, 3, 3, 4, 5, 6, 6, 6, 7, 8, 9]
    assert found == sorted(found)


def test_places_in_expressions_over_several_lines():
    text = """\
rules:
  - name: a
    condition: always
    action:
      select: >-
        workers.filter(gpus > 1)
          .frist()
"""
    assert problems(text) == [(7, 12, 'there is no method of a list of workers "frist"; did you mean first?')]
    quoted = text.replace(">-", "").replace("workers", '"workers').replace(".frist()", '.frist()"')
    assert problems(quoted) == [(7, 12, 'there is no method of a list of workers "frist"; did you mean first?')]


def test_doubts_do_not_keep_a_policy_from_running():
    text = """\
rules:
  - {name: a, condition: always, action: {use: platform-scheduler}}
  - {name: a, condition: {model: x}, action: wait}
"""
    found = yaml_compiler.compile(text, "x.yaml")
    assert found.lua
    assert [problem.fatal for problem in found.problems] == [False, False]
    messages = " ".join(problem.message for problem in found.problems)
    assert "never asked" in messages
    assert 'line 2 has a rule "a" too' in messages


def test_starting_a_worker_is_about_pools():
    text = "rules: [{name: a, condition: {worker.pinned: true}, action: start_worker}]"
    assert "chooses a pool" in problems(text)[0][2]
