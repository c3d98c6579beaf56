-- Helpers about models.
local helper, ref_of = rbee.helper, rbee.ref_of

local function model_of(model, name)
  local ref = ref_of(model)
  return rbee.views.models[ref] or rbee.note_absent(name, "model " .. rbee.shown(ref))
end

-- The reference a name or reference means; nil when there is no such model, or several have the name.
helper("models", "resolve_model", "string|model", function(name)
  local ref = ref_of(name)
  if rbee.views.models[ref] then return ref end
  local models, found = rbee.items(rbee.all_models), nil
  for i = 1, #models do
    if models[i].name == ref then
      if found then return nil end
      found = models[i].model_ref
    end
  end
  return found
end)

helper("models", "get_model", "string|model", function(ref) return model_of(ref, "get_model") end)

helper("models", "model_exists", "string|model", function(ref) return rbee.views.models[ref_of(ref)] ~= nil end)

local function model_field(name, field)
  helper("models", name, "string|model", function(ref)
    local model = model_of(ref, name)
    if model and model[field] == nil then return rbee.note_absent(name, field .. " of " .. model.model_ref) end
    return model and model[field]
  end)
end
model_field("model_size_bytes", "file_size_bytes")
model_field("model_vram_required", "vram_required_mb")

helper("models", "find_models_by_family", "string", function(family)
  return rbee.all_models:filter(function(model) return model.family == family end)
end)

helper("models", "filter_models", "function", function(fn) return rbee.all_models:filter(fn) end)
