"""What policies see: fields, lists, helpers, and what they may not do."""

import pytest

from policy_worlds import NOW, PLATFORM, program
from queen.policy.language import Decided, Program

FIELDS = {
    "job": {
        "job.id": "j1",
        "job.model .. job.model_ref": "llamallama",
        "job.queued_at": str(NOW - 3000),
        "job.wait_time_ms": "3000",
        "job.deadline": "60000",
        "job.seed": "7",
        "job.user.geo.region": "eu",
        "job.labels.team": "x",
        "job.labels.none": "nil",
        "job.estimated_vram_mb": "6000",
        "job.estimated_duration_ms": "5333.3333333333",  # 200 tokens at 37.5 a second
        "job.temperature": "nil",
        "context.queue[2].user.geo.region": "nil",
        "context.queue[2].deadline": "nil",
    },
    "worker": {
        "workers[1].pool_id .. workers[1].hive_id": "millmill",
        "workers[1].status .. workers[1].state": "readyready",
        "workers[1].model == workers[1].model_ref": "true",
        "workers[1].vram_free": "18000",
        "workers[1].gpus": "1",
        "workers[1].gpu_ids[1]": "gpu0",
        "workers[1].uptime_s": "100.0",
        "workers[1].idle_ms": "nil",
        "workers[2].idle_ms": "5000",
        "workers[1].estimated_time": "4000.0",  # 200 tokens at 50 a second
        "workers[3].estimated_time": "5333.3333333333",
        "workers[1].labels.tier": "gold",
        "workers[1].pinned": "false",
        "workers[4].pinned": "true",
        "workers[3].geo.latitude": "nil",
    },
    "pool": {
        "pools[1].id .. pools[2].id": "barnmill",
        "pools[1].heartbeat_age_ms": "4000",
        "pools[2].gpus:count()": "2",
        "pools[1].gpus:count()": "0",
        "pools[2].gpus[2].vram_free": "22000",
        "pools[2].workers": "[worker a, worker b]",
        "pools[1].cached_models[1]": "llama",
        "pools[2].labels.rack": "a",
        "#pools": "2",
    },
    "rest": {
        "context.tenants[2].weight": "2",
        "context.tenants[1].weight": "1",
        "context.models[1].family": "llama",
        "context.metrics.queue_depth": "3",
        "context.metrics.queue_depth_batch": "2",
        "context.metrics.queue_depth_interactive": "1",
        "context.metrics.avg_wait_time_ms": "134666.66666667",
        "context.metrics.total_workers": "5",
        "context.metrics.ready_workers": "4",
        "context.metrics.failed_workers": "0",
        "context.metrics.total_pools": "2",
        "context.metrics.healthy_pools": "1",
        "context.metrics.total_gpus": "2",
        "context.metrics.total_vram_mb": "48000",
        "context.metrics.free_vram_mb": "32000",
        "context.metrics.avg_gpu_utilization": "nil",
        "context.metrics.jobs_completed_last_minute": "nil",
        "context.config.replicas": "1",
        "context.config.anything": "nil",
        "context.now_ms": str(NOW),
        "context.helpers.find_worker('llama')": "worker a",
        "context.hives == context.pools": "true",
        "type(context.platform_schedule)": "function",
    },
}

LISTS = {
    "workers:idle()": "[worker b, worker d, worker e]",
    "workers:available()": "[worker a, worker b, worker d, worker e]",
    "workers:online()": "[worker a, worker b, worker d, worker e]",
    "hives:online()": "[pool barn, pool mill]",
    "hives:available()": "[pool mill]",
    "hives:get('mill'), hives:get('gone'), workers:get('c')": "pool mill nil worker c",
    "workers:with_model('llama')": "[worker a, worker b]",
    "workers:filter(function() return true end):with_model('llama')": "[worker a, worker b]",
    "workers:with_model('none')": "[]",
    "pools:with_model('qwen')": "[pool mill]",
    "workers:with_capacity(9500)": "[worker a]",
    "pools:with_capacity(3000)": "[pool barn, pool mill]",
    "pools:with_capacity(22001)": "[]",
    "pools[2].gpus:with_capacity(15000)": "[gpu gpu1]",
    "workers:in_pool('barn')": "[worker c, worker d, worker e]",
    "workers:with_label('tier', 'gold')": "[worker a]",
    "workers:with_label('tier')": "[worker a]",
    "workers:with_label('tier', 'tin')": "[]",
    "workers:filter(function(w) return w.id > 'c' end)": "[worker d, worker e]",
    "workers:sort_by('cost_per_token')": "[worker b, worker a, worker c, worker d, worker e]",
    "workers:sort_by(function(w) return -w.slots_total end):first()": "worker a",
    "workers:map(function(w) return w.id end)": "[a, b, c, d, e]",
    "workers:first(), workers:last(), workers:count(), workers:is_empty()": "worker a worker e 5 false",
    "workers:any(function(w) return w.pinned end), workers:all(function(w) return w.pinned end)": "true false",
    "workers:min_by('cost_per_token'), workers:max_by(function(w) return w.slots_total end)": "worker b worker a",
    "workers:least_loaded(), workers:with_model('llama'):least_loaded()": "worker b worker b",
    "workers:most_vram_free(), workers:cheapest()": "worker a worker b",
    "workers:nearest(job.user.geo)": "worker b",
    "workers:round_robin(), workers:round_robin()": "worker a worker b",
    "workers:random() == nil": "false",
    "workers:with_model('none'):first(), workers:with_model('none'):random()": "nil nil",
    "workers:with_model('none'):least_loaded(), workers:with_model('none'):round_robin()": "nil nil",
}

HELPERS = {
    "find_worker('llama'), find_worker('llama', 'barn'), find_worker('qwen')": "worker a nil nil",
    "find_ready_worker('llama')": "worker a",
    "find_best_worker(pools, 'llama')": "worker b",
    "find_least_loaded_worker('llama'), find_least_loaded_worker('llama', 'barn')": "worker b nil",
    "find_most_vram_free_worker('llama'), find_worker_most_vram_free('llama')": "worker a worker a",
    "find_worker_round_robin('llama'), find_worker_round_robin('llama')": "worker b worker a",
    "filter_workers(function(w) return w.pinned end)": "[worker d]",
    "get_all_workers():count(), find_workers_by_model('qwen')": "5 [worker c]",
    "get_pool('mill'), get_pool('gone')": "pool mill nil",
    "find_pools_with_capacity(4000)": "[pool mill]",
    "is_pool_healthy('mill'), is_pool_healthy('barn'), is_pool_healthy('gone')": "true false false",
    "get_pool_utilization('mill')": "0.25",
    "filter_pools(function(p) return p.status == 'degraded' end)": "[pool barn]",
    "gpu_vram_total('gpu0'), gpu_vram_free('mill/gpu1'), gpu_device_name('gpu1')": "24000 22000 RTX 3090",
    "gpu_vram_free('gpu9')": "nil",
    "get_gpu('mill', 'gpu1'), get_gpu('barn', 'gpu1')": "gpu gpu1 nil",
    "find_gpus_with_vram(15000)": "[gpu gpu1]",
    "check_gpu_compatibility('gpu0', 'qwen'), check_gpu_compatibility('gpu0', 'phi')": "true nil",
    "estimate_performance('llama', 'gpu0'), estimate_performance('qwen', 'gpu0')": "37.5 nil",
    "resolve_model('Llama'), resolve_model('llama'), resolve_model('none')": "llama llama nil",
    "get_model('qwen'), model_exists('qwen'), model_exists('none')": "model qwen true false",
    "model_size_bytes('llama'), model_vram_required('qwen'), model_vram_required('phi')": f"{4 << 30} 20000 nil",
    "find_models_by_family('phi')": "[model phi]",
    "filter_models(function(m) return m.vram_required_mb end)": "[model llama, model qwen]",
    "get_job('j2'), get_job('gone')": "job j2 nil",
    "filter_jobs(function(j) return j.priority == 'batch' end)": "[job j2, job j3]",
    "calculate_wait_time('j1')": "3000",
    "estimate_job_duration(job), estimate_job_duration(job, workers[2])": "5333.3333333333 8000.0",
    "estimate_job_duration('j2')": "nil",
    "can_job_fit(job, workers[1])": "true",
    "can_job_fit(job, workers[3])": "false has another model",
    "can_job_fit('j2', workers[3])": "false still loads the model",
    "get_job_priority_score('j1'), get_job_priority_score('j2'), get_job_priority_score('j3')": "1003.0 1400.0 1.0",
    "tenant_over_quota('lab')": "false nil",
    "tenant_over_quota('full')": "true tenant full runs 1 of 1 jobs",
    "tenant_remaining_quota('lab').tokens, tenant_remaining_quota('full').tokens": "500 nil",
    "tenant_usage('lab').vram_mb, tenant_usage('full').vram_mb": "24000 0",
    "check_quota('lab', 6000)": "true nil",
    "check_quota('lab', 6001)": "false tenant lab uses 24000 of 30000 MB",
    "check_tenant_quota('lab', job)": "true nil",
    "check_tenant_quota('gone', job)": "nil",
    "estimate_quota_impact('lab', job).tokens, estimate_quota_impact('lab', job).vram_mb": "300 6000",
    "fair_select(workers:with_model('llama'), 'lab')": "worker b",  # nobody poorer waits for llama
    "fair_select(workers:with_model('phi'), 'lab')": "nil",  # j3's tenant has had nothing
    "find_worker_to_evict_lru(), find_worker_to_evict_lru('mill')": "worker e worker b",
    "find_worker_to_evict_lfu()": "worker e",
    "should_evict('mill'), find_model_to_evict('barn')": "false phi",
    "math.floor(distance(52.5, 13.4, 48.1, 11.6))": "505",
    "string_contains('llama-70b', '70b'), string_starts_with('llama', 'ma')": "true false",
    "average({1, 2, 6}), max(1, 5, 2), min({4, 3})": "3.0 5 3",
    "average({}), now(), elapsed_since(context.now_ms - 5)": f"nil {NOW} 5",
    "platform.get_source() == context.config.none, #platform.get_source() > 1000": "false true",
}


@pytest.mark.parametrize(
    ("expression", "expected"), [pair for group in (*FIELDS.values(), LISTS, HELPERS) for pair in group.items()]
)
def test_what_a_policy_sees(value, expression, expected):
    assert value(expression) == expected


def test_everything_has_been_tried(mill):
    known = mill.vocabulary()
    tried = " ".join([*LISTS, *HELPERS])
    builders = {"dispatch", "wait", "start_worker", "evict", "reject", "batch"}
    elsewhere = {*builders, "explain", "emit_metric", "log_debug", "log_info", "log_warn", "log_error"}
    assert [name for name in known.helpers if f"{name}(" not in tried and name not in elsewhere] == []
    assert [name for name in known.methods if f":{name}(" not in tried] == []


@pytest.mark.parametrize(
    "statement",
    [
        "job.priority = 'batch'",
        "job.nothing = 1",
        "job.labels.team = 'y'",
        "job.user.geo.region = 'us'",
        "workers[1] = nil",
        "workers[9] = workers[1]",
        "workers[1].in_flight = 0",
        "workers[1].gpu_ids[1] = 'gpu7'",
        "context.queue = {}",
        "context.pools[2].gpus[1].vram_free = 0",
        "context.config.replicas = 9",
        "context.metrics.queue_depth = 0",
        "context.helpers.find_worker = nil",
        "platform.schedule = nil",
        "string.rep = nil",
        "table.insert(workers, workers[1])",
        "table.sort(workers, function(a, b) return a.id > b.id end)",
        "table.remove(context.queue)",
    ],
)
def test_nothing_of_the_state_can_be_set(mill, failing, statement):
    before = mill.decide_platform(NOW, 1)
    assert "read-only" in failing(statement)
    assert mill.decide_platform(NOW, 1).decisions == before.decisions


def test_pairs_go_through_views_and_tables_in_order(value):
    keys = "(function(t) local k = {} for key in pairs(t) do k[#k + 1] = tostring(key) end"
    keys += " return table.concat(k, ' ') end)"
    assert value(f"{keys}({{b = 1, a = 2, 10, 20, [true] = 1}})") == "1 2 a b true"
    assert value(f"{keys}(job.labels)") == "team"
    assert "model model_ref" in value(f"{keys}(job)")
    assert value(f"{keys}(workers)") == "1 2 3 4 5"
    assert value("next({}), next({x = 1})") == "nil x 1"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return job.modle", 'test.lua:3: job has no field "modle"; did you mean model?\n  3 | return job.modle'),
        ("local x = workers[1].slots_availble", "did you mean slots_available?"),
        ("job.labels.x.y = 1", "test.lua:3: "),
        ("return dispatch(job, nil)", "dispatch: expected a worker or its id, got nothing"),
        ("local w = find_worker(7)", "test.lua:3: find_worker: argument 1 must be a string or a model, got number 7"),
        ("filter_workers()", "filter_workers: argument 1 must be a function, got nothing"),
        ("workers:filter(3)", ":filter takes a function, got 3"),
        ("workers:sort_by({})", ":sort_by takes a function or a field name, got a table"),
        ("workers.first()", "called with a colon"),
        ("error('broken')", "test.lua:3: broken\n  3 | error('broken')"),
        ("error({})", "error with a table"),
        ("x = 1", 'global "x" is set inside a function; write `local x`'),
        ("return 5", "schedule returned a bad decision: expected a decision, got 5"),
        ("return workers[1]", "expected a decision, got worker a"),
        ("return {}", "action must be a string, got nothing"),
        ("return {action = 'dispach'}", 'there is no action "dispach"; did you mean dispatch?'),
        (
            "return {action = 'dispatch', job_id = 5, worker_id = 'a'}",
            "dispatch: job_id must be a string, got number 5",
        ),
        ("return {action = 'dispatch', job_id = 'j1'}", "dispatch: worker_id must be a string, got nothing"),
        ("return {action = 'dispatch', worker_id = 'a'}", "dispatch: job_id must be the id of a job"),
        ("return reject('no')", "reject: job_id must be the id of a job"),
        ("return {action = 'wait', retry_after_ms = 0/0}", "wait: retry_after_ms must be a number of milliseconds"),
        ("return {action = 'evict'}", "evict: worker_id must be a string, got nothing"),
        ("return {action = 'batch'}", "batch: actions must be a list of decisions, got nothing"),
        ("return {action = 'start_worker', start_worker = 5}", "start_worker must be a table, got number 5"),
        ("local b = {action = 'wait'} for i = 1, 9 do b = batch{b} end return b", "nested more than 8 deep"),
        ("local b = {} for i = 1, 10001 do b[i] = {action = 'wait'} end return batch(b)", "at most 10000 actions"),
    ],
)
def test_errors_say_where_and_what(failing, body, said):
    assert said in failing(body)


def test_errors_carry_the_frames_they_happened_in(mill):
    source = "local function inner()\n error('deep')\nend\nfunction schedule(context)\n inner()\n return nil\nend"
    assert mill.load(source, "deep.lua") is None
    error = mill.decide(NOW, 1).error
    assert error.traceback.splitlines() == ["deep.lua:2: in function inner", "deep.lua:5: in a function"]


def test_a_policy_that_does_not_load_leaves_the_one_before(mill):
    assert mill.load("function schedule(context) return wait('first') end", "one.lua") is None
    assert mill.load("function schedule(", "two.lua").message.startswith("two.lua:1: ")
    assert "no entry point" in mill.load("local x = 1", "two.lua").message
    assert "must be a function" in mill.load("schedule = 5", "two.lua").message
    assert "exceeded 50 ms" in mill.load("while true do end", "two.lua").message
    assert mill.load("\x1bLua", "two.lua") is not None
    assert mill.decide(NOW, 1).decisions == (Decided("wait", reason="first"),)
    mill.unload()
    assert mill.decide(NOW, 1).decisions == mill.decide_platform(NOW, 1).decisions


def decisions(made, source, seed=1):
    assert made.load(source, "test.lua") is None
    outcome = made.decide(NOW, seed)
    assert outcome.error is None, outcome.error
    return outcome.decisions


def test_every_form_of_a_decision_comes_out_flat(mill):
    source = """function schedule(context)
      return batch{
        {action = "start_worker", start_worker = {model_ref = "qwen", pool_id = "mill"}, reason = "r"},
        start_worker{model = context.models[1], pool = context.pools[2], gpu_id = "gpu1", job = context.queue[1]},
        {action = "evict_worker", evict_worker_id = "e"},
        batch{evict(context.workers[2], "old"), wait("all", 10.7), wait("one", 5, context.queue[3])},
        reject(context.queue[2], "no"),
      }
    end"""
    assert decisions(mill, source) == (
        Decided("start_worker", model_ref="qwen", pool_id="mill", reason="r"),
        Decided("start_worker", job_id="j1", model_ref="llama", pool_id="mill", gpu_id="gpu1"),
        Decided("evict", worker_id="e"),
        Decided("evict", worker_id="b", reason="old"),
        Decided("wait", reason="all", retry_after_ms=10),
        Decided("wait", job_id="j3", reason="one", retry_after_ms=5),
        Decided("reject", job_id="j2", reason="no"),
    )


def test_schedule_job_is_asked_about_each_and_sees_what_was_given_before():
    jobs = [{"model": "llama"} for _ in range(8)]
    made = program(jobs=jobs)
    source = """function schedule_job(job, pools, workers)
      return workers:with_model(job.model):available():least_loaded()
    end"""
    found = decisions(made, source)
    assert [each.worker_id for each in found] == ["b", "b", "a", "b", "a", "b", None, None]
    assert found[-1] == Decided("wait", job_id="job-8")
    assert decisions(made, source) == found  # nothing of it stays


def test_schedule_is_asked_again_while_it_takes_jobs_off_the_queue(mill):
    source = """function schedule(context)
      for _, job in ipairs(context.queue) do
        local worker = find_worker(job.model)
        if worker then return dispatch(job, worker) end
      end
      return wait("nothing fits")
    end"""
    assert [(each.action, each.job_id) for each in decisions(mill, source)] == [
        ("dispatch", "j1"),
        ("dispatch", "j3"),
        ("wait", None),
    ]


def test_a_start_is_seen_as_a_loading_worker_and_an_eviction_as_one_that_leaves():
    made = program(jobs=[{"model": "new"}, {"model": "new"}])
    source = """function schedule_job(job, pools, workers)
      local mine = workers:with_model(job.model)
      if mine:is_empty() then return batch{start_worker{model_ref = "new", pool_id = "mill"}, evict("e")} end
      return wait(mine:first().status .. " " .. workers:get("e").status)
    end"""
    assert decisions(made, source)[-1].reason == "loading draining"
    assert decisions(made, "function schedule_job(job) return wait(#get_all_workers() .. '') end")[0].reason == "5"


def test_platform_schedule_decides_about_the_job_at_hand_or_all(mill):
    one = decisions(mill, "function schedule_job(job, pools, workers) return platform.schedule(context) end")
    whole = decisions(mill, "function schedule(context) return platform.schedule(context) end")
    assert {(each.job_id, each.action, each.worker_id) for each in one} == {
        (each.job_id, each.action, each.worker_id) for each in whole
    }
    assert decisions(mill, "function schedule(context) return context.platform_schedule(context) end") == whole


def test_the_other_entry_points_answer(mill):
    source = """
    function should_admit(job, context) return job.priority == "interactive", "only interactive" end
    function should_retry(job, attempt, error) return attempt < 3 and error.reason == "LOST" end
    function on_idle(context) return evict(context.workers:get("e"), "bored") end
    """
    assert mill.load(source, "test.lua") is None
    assert mill.entry_points() == {"should_admit", "should_retry", "on_idle"}
    refused = mill.call("should_admit", {"job_id": "j2"}, NOW, 1)
    assert (refused.answer, refused.answer_reason) == (False, "only interactive")
    assert mill.call("should_admit", {"job_id": "j1"}, NOW, 1).answer is True
    assert mill.call("should_retry", {"job_id": "j1", "attempt": 1, "error": {"reason": "LOST"}}, NOW, 1).answer is True
    assert (
        mill.call("should_retry", {"job_id": "j1", "attempt": 3, "error": {"reason": "LOST"}}, NOW, 1).answer is False
    )
    assert mill.call("on_idle", {}, NOW, 1).decisions == (Decided("evict", worker_id="e", reason="bored"),)
    assert "there is no job" in mill.call("should_admit", {"job_id": "gone"}, NOW, 1).error.message
    # It schedules nothing itself, so the platform policy does.
    assert mill.decide(NOW, 1).decisions == mill.decide_platform(NOW, 1).decisions
    assert mill.load("function should_admit() return 5 end", "test.lua") is None
    assert "must return true or false" in mill.call("should_admit", {"job_id": "j1"}, NOW, 1).error.message


def test_explanations_logs_and_metrics_come_back_bounded(mill):
    source = """function schedule(context)
      local job = context.queue[1]
      for _, worker in ipairs(context.workers) do explain(worker, "is " .. worker.status, job) end
      explain(context.pools[2], 0.5, job)
      for n = 1, 150 do log_info("line " .. n) emit_metric("m", n) end
      log_error(job)
      return wait(("x"):rep(2000) .. "\\xff")
    end"""
    assert mill.load(source, "test.lua") is None
    outcome = mill.decide(NOW, 1)
    assert [(each.worker_id, each.reason) for each in outcome.explained[:2]] == [("a", "is ready"), ("b", "is ready")]
    assert (outcome.explained[-1].pool_id, outcome.explained[-1].score) == ("mill", 0.5)
    assert {each.job_id for each in outcome.explained} == {"j1"}
    assert (len(outcome.logs), outcome.dropped_logs, len(outcome.metrics)) == (100, 51, 100)
    assert outcome.decisions[0].reason == "x" * 1000


def test_what_is_not_known_is_said_once(mill):
    source = "function schedule(context) estimate_job_duration('j2') estimate_job_duration('j2') get_pool(nil) end"
    assert mill.load(source, "test.lua") is None
    assert [line.message for line in mill.decide(NOW, 1).logs] == [
        'estimate_job_duration returned nil: the speed of "qwen" is not known',
        "get_pool returned nil: its argument 1 (a string|pool) is not known",
    ]
    assert mill.decide(NOW, 2).logs == ()


def test_the_state_is_patched_not_rebuilt(mill, value):
    mill.put("workers", "a", {"in_flight": 4, "slots_available": 0, "status": "busy"}, absent=["avg_tokens_per_sec"])
    assert value("workers[1].in_flight, workers[1].state, workers[1].avg_tokens_per_sec") == "4 busy nil"
    mill.put("workers", "b", {"model": "qwen", "pool_id": "barn"})
    assert value("find_workers_by_model('llama'), find_workers_by_model('qwen')") == "[worker a] [worker b, worker c]"
    assert value("pools[2].workers, #pools[1].workers") == "[worker a] 4"
    mill.remove("workers", "a")
    mill.put("workers", "aa", {"model": "llama", "pool_id": "mill"})
    assert value("workers, find_workers_by_model('llama')") == (
        "[worker aa, worker b, worker c, worker d, worker e] [worker aa]"
    )
    mill.put("pools", "mill", {"gpus": [{"id": "gpu0", "vram_free": 1}]})
    assert value("pools[2].gpus:count(), pools[2].gpus[1].vram_free") == "1 1"
    mill.queue(["j3", "gone", "j1"])
    assert value("context.queue") == "[job j3, job j1]"


def test_the_same_state_and_seed_give_the_same_decisions_in_every_process():
    source = """function schedule_job(job, pools, workers)
      if math.random() < 0.3 then return wait("chance " .. math.random(1000)) end
      return workers:with_model("llama"):random()
    end"""
    jobs = [{"model": "llama"} for _ in range(20)]
    first, second = (decisions(program(jobs=jobs), source, seed=3) for _ in range(2))
    assert first == second
    assert first != decisions(program(jobs=jobs), source, seed=4)


@pytest.mark.parametrize(
    "name",
    [
        *("io", "os", "debug", "package", "require", "load", "loadstring", "dofile", "loadfile", "collectgarbage"),
        *("coroutine", "rawget", "rawset", "rawequal", "rawlen", "print", "python", "rbee", "rbee_put", "_G", "xpcall"),
        *("string.dump", "math.randomseed", "table.move"),
    ],
)
def test_what_could_reach_out_is_not_there(value, name):
    assert value(name) == "nil"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("setmetatable({}, {__gc = function() end})", "__gc is not allowed"),
        ("setmetatable({}, {__close = function() end})", "__close is not allowed"),
        ("setmetatable({}, {__mode = 'k'})", "__mode is not allowed"),
        ("setmetatable(job, {})", "not the policy's own"),
        ("setmetatable(string, {})", "not the policy's own"),
        ("table.insert(setmetatable({}, {__len = function() return 1 << 60 end}), 1, 1)", "a __len of its own"),
        ("return ('').rep('', 1 << 60) .. job", "attempt to concatenate"),
        ("return getmetatable('').__index.rep", "attempt to index a nil value"),
        ("return ('x').dump(schedule)", "attempt to call a nil value (field 'dump')"),
        ("return ('%p'):format({})", "addresses"),
        ("while true do end", "policy exceeded 50 ms"),
        ("while true do pcall(function() while true do end end) end", "policy exceeded 50 ms"),
        ("local function f() return pcall(f) or f() end f()", "polic"),
        ("local t = {} for n = 1, 1e9 do t[n] = n end", "polic"),
        ("local function f() return 1 + f() end f()", "test.lua:3: "),
    ],
)
def test_what_would_break_out_is_refused(mill, failing, body, said):
    assert said in failing(body)
    assert mill.decide_platform(NOW, 1).error is None


def test_metatables_of_ones_own_work(value):
    before = """
    local Point = {} Point.__index = Point
    function Point.new(x) return setmetatable({x = x}, Point) end
    function Point:twice() return self.x * 2 end
    """
    assert value("Point.new(4):twice(), getmetatable(Point.new(1)) == Point, getmetatable(job)", before) == "8 true nil"


def test_texts_show_no_addresses(value):
    assert value("tostring({}), tostring(print), ('%s'):format(workers), tostring(job)") == "table nil table job j1"


def test_the_memory_of_a_call_is_bounded_and_comes_back(mill):
    assert mill.load("function schedule() return ('x'):rep(1 << 30) end", "test.lua") is None
    assert "memory" in mill.decide(NOW, 1).error.message
    assert mill.memory_used_bytes < 8 << 20


def test_a_cycle_that_has_used_its_time_says_how_much_is_left():
    made = program(jobs=[{"model": "llama"} for _ in range(50)])
    source = "function schedule_job(job) for n = 1, 300000 do end return wait('x') end"
    assert made.load(source, "slow.lua") is None
    outcome = made.decide(NOW, 1, 20.0)
    assert outcome.error is None
    assert len(outcome.decisions) + outcome.undecided == 50
    assert outcome.undecided > 0


def test_nothing_of_python_is_in_the_trusted_side_either():
    made = Program()
    assert made.load_platform(PLATFORM) is None
    assert not hasattr(made.vocabulary(), "python")
    assert made.load("function schedule() return python.builtins end", "x.lua") is None
    made.put("jobs", "j", {"model": "m"})
    made.queue(["j"])
    assert "attempt to index a nil value (global 'python')" in made.decide(NOW, 1).error.message
