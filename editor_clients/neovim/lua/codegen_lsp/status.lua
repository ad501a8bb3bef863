-- What the server is doing, in few words.

local M = {}

---@class codegen_lsp.Status
---@field state "starting"|"loading"|"ready"|"thinking"|"off"|"failed" "off": the model is
---  unloaded until a key brings it back.
---@field message string
---@field model string
---@field progress? string What is under way.

---@type table<integer, codegen_lsp.Status> By client.
local statuses = {}
---Whether suggestions are on; |:CodegenToggle| switches them.
M.is_on = true
---@type { client_id: integer, token: string }? What can be stopped.
M.stoppable = nil

local function tell()
  vim.api.nvim_exec_autocmds("User", { pattern = "CodegenStatus", modeline = false })
  vim.cmd.redrawstatus({ bang = true })
end

---Takes the notification `codegen/status`.
---@type lsp.Handler
function M.take(_, params, context)
  local progress = (statuses[context.client_id] or {}).progress
  statuses[context.client_id] = vim.tbl_extend("force", params, { progress = progress })
  tell()
end

---Takes what the autocommand LspProgress carries.
---@param client_id integer
---@param token string
---@param value lsp.WorkDoneProgressBegin|lsp.WorkDoneProgressReport|lsp.WorkDoneProgressEnd
function M.take_progress(client_id, token, value)
  local status = M.of(client_id)
  if value.kind == "end" then
    status.progress = nil
    M.stoppable = nil
  else
    local amount = value.percentage and ("%d%%"):format(value.percentage) or value.message
    status.progress = vim.trim(("%s %s"):format((value.title or ""):lower(), amount or ""))
    if value.cancellable then
      M.stoppable = { client_id = client_id, token = token }
    end
  end
  statuses[client_id] = status
  tell()
end

---Forgets a server that ended.
---@param client_id integer
function M.forget(client_id)
  statuses[client_id] = nil
  if M.stoppable and M.stoppable.client_id == client_id then
    M.stoppable = nil
  end
  tell()
end

---@param is_on boolean
function M.switch(is_on)
  M.is_on = is_on
  tell()
end

---Returns what is known of a client's server.
---@param client_id integer
---@return codegen_lsp.Status
function M.of(client_id)
  return statuses[client_id] or { state = "starting", message = "", model = "" }
end

---@param bufnr integer
---@return string
function M.text(bufnr)
  local client = vim.lsp.get_clients({ bufnr = bufnr, name = "codegen_lsp" })[1]
  if not client then
    return ""
  elseif not M.is_on then
    return "codegen: off"
  end
  local status = M.of(client.id)
  local model = status.model ~= "" and status.model or "codegen"
  if status.progress then
    return ("%s: %s"):format(model, status.progress)
  elseif status.state == "ready" then
    return model
  end
  return ("%s: %s"):format(model, status.state == "off" and "asleep" or status.state)
end

return M
