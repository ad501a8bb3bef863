-- :checkhealth codegen_lsp: each usual mistake, and its cure.

local config = require("codegen_lsp.config")
local server = require("codegen_lsp.server")
local status = require("codegen_lsp.status")

local M = {}

local TIMEOUT_MS = 20000

---Runs the server's program with other arguments.
---@param command string[]
---@param arguments string[]
---@return vim.SystemCompleted
local function run(command, arguments)
  local words = {}
  for _, word in ipairs(command) do
    if word == "serve" then
      break
    end
    table.insert(words, word)
  end
  local ok, result = pcall(function()
    return vim
      .system(vim.list_extend(words, arguments), { text = true, timeout = TIMEOUT_MS })
      :wait()
  end)
  return ok and result or { code = 1, signal = 0, stdout = "", stderr = tostring(result) }
end

---@param result vim.SystemCompleted
---@return string
local function reason_of(result)
  if result.code == 124 then
    return ("no answer within %d s"):format(TIMEOUT_MS / 1000)
  end
  local lines = vim.split(vim.trim(result.stderr or ""), "\n")
  return lines[#lines] ~= "" and lines[#lines] or ("exit status %d"):format(result.code)
end

local function check_neovim()
  vim.health.start("Neovim")
  if not server.is_right_neovim() then
    vim.health.error(server.WRONG_NEOVIM)
    return false
  end
  vim.health.ok(("Neovim %s has inline completion"):format(tostring(vim.version())))
  local missing = require("codegen_lsp.ghost").missing()
  if #missing > 0 then
    vim.health.warn(
      ("this Neovim keeps suggestions in another way (no %s)"):format(
        table.concat(missing, ", ")
      ),
      "Suggestions are shown, but cannot be accepted by these keys: update codegen-lsp."
    )
  end
  return true
end

---@return string[]? command
local function check_server()
  vim.health.start("Server")
  if not vim.lsp.is_enabled(server.NAME) then
    vim.health.warn(
      "it is not switched on",
      'Write require("codegen_lsp").setup() or vim.lsp.enable("codegen_lsp") into init.lua.'
    )
  end
  -- The report has the window; what was there before it is what is asked about.
  local before = vim.fn.bufnr("#")
  local command, problem = server.find(server.folders(before > 0 and before or 0))
  if not command then
    vim.health.error(problem --[[@as string]])
    return nil
  end
  local result = run(command, { "--version" })
  if result.code ~= 0 then
    vim.health.error(
      ("%s does not start: %s"):format(command[1], reason_of(result)),
      "Install it again: `pipx install --force codegen-lsp`. It needs Python 3.11 or newer."
    )
    return nil
  end
  vim.health.ok(("%s, version %s"):format(command[1], vim.trim(result.stdout)))
  local clients = vim.lsp.get_clients({ name = server.NAME })
  if #clients == 0 then
    vim.health.info(
      "no server runs; it starts with a file of these kinds: "
        .. table.concat(config.options.filetypes, ", ")
    )
  end
  if server.n_crashes() > 0 then
    vim.health.error(
      ("the server ended unexpectedly, %d times in a row"):format(server.n_crashes()),
      { ":CodegenLog shows why.", ":CodegenRestart starts it again." }
    )
  end
  return command
end

---@param command string[]
local function check_model(command)
  vim.health.start("Model")
  local wanted = config.options.settings.model
  local result = run(command, { "models", "--json" })
  local ok, catalogue = pcall(vim.json.decode, result.stdout)
  if result.code ~= 0 or not ok then
    vim.health.warn("the models cannot be listed: " .. reason_of(result))
  elseif wanted then
    for _, model in ipairs(catalogue.models) do
      if model.name == wanted and not model.is_here then
        vim.health.error(
          ("the model %s is not on this machine"):format(wanted),
          ("Run `codegen-lsp pull %s`, then :CodegenRestart."):format(wanted)
        )
      end
    end
  end
  for _, client in ipairs(vim.lsp.get_clients({ name = server.NAME })) do
    local now = status.of(client.id)
    local said = now.message ~= "" and (": " .. now.message) or ""
    if now.state == "failed" then
      vim.health.error("no model answers" .. said, {
        "`codegen-lsp models` lists the models, `codegen-lsp doctor` says what works.",
        "Without the setting model the embedded one answers.",
      })
    elseif now.state == "ready" or now.state == "thinking" then
      vim.health.ok(("%s answers%s"):format(now.model, said))
    else
      vim.health.info(("%s is %s%s"):format(now.model, now.state, said))
    end
  end
end

local function check_suggestions()
  vim.health.start("Suggestions")
  if status.is_on then
    vim.health.ok("they are on")
  else
    vim.health.warn("they are off", ":CodegenToggle switches them on.")
  end
  local buffers = {}
  for _, client in ipairs(vim.lsp.get_clients({ name = server.NAME })) do
    vim.list_extend(buffers, vim.tbl_keys(client.attached_buffers))
  end
  for action, key in
    vim.spairs(config.options.keys --[[@as table<string, string|false>]])
  do
    for _, bufnr in ipairs(key and buffers or {}) do
      local mapping = vim.api.nvim_buf_call(bufnr, function()
        return vim.fn.maparg(key, "i", false, true)
      end)
      if not vim.startswith(mapping.desc or "", "codegen-lsp:") then
        vim.health.warn(
          ("%s is mapped by somebody else in buffer %d, and so does not %s"):format(
            key,
            bufnr,
            (action:gsub("_", " "))
          ),
          ("Choose another key: setup{ keys = { %s = ... } }, or call "):format(action)
            .. ('require("codegen_lsp").%s() from that mapping.'):format(action)
        )
      end
    end
  end
end

function M.check()
  if not check_neovim() then
    return
  end
  local command = check_server()
  if command then
    check_model(command)
  end
  check_suggestions()
end

return M
