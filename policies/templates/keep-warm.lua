-- Keep warm: the models listed here always have their workers, started before anybody asks; all else is scheduled as
-- usual. Pin the workers (rbee worker pin) to keep them from being evicted.

local WARM = { -- model -> how many workers
  ["llama-8b"] = 2,
  ["nomic-embed"] = 1,
}

local function start_missing(context)
  local starts = {}
  for model, wanted in pairs(WARM) do
    local there = find_workers_by_model(model):filter(function(worker)
      return worker.status ~= "failed" and worker.status ~= "draining"
    end)
    local places = context.pools:available():with_model(model):with_capacity(model_vram_required(model) or 0)
    for n = 1, math.min(wanted - there:count(), places:count()) do
      starts[#starts + 1] = start_worker{ model_ref = model, pool_id = places[n].id, reason = "kept warm" }
    end
  end
  return batch(starts)
end

function on_idle(context) return start_missing(context) end

function schedule(context) return platform.schedule(context) end
