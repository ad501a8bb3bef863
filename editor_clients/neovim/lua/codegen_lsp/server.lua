-- The server's process: where it is, whether it may run, and what happens when it ends.

local config = require("codegen_lsp.config")
local status = require("codegen_lsp.status")

local M = {}

M.NAME = "codegen_lsp"
M.WRONG_NEOVIM = ("Neovim 0.12 or newer is needed, and this is %s; "):format(
  tostring(vim.version())
) .. "https://neovim.io has it, and most package managers"

local ROOT_MARKERS = { ".git", "pyproject.toml", "setup.py", "package.json", "go.mod" }
---How long to wait before it is started again: after the first end, and the second.
local DELAYS_MS = { 500, 2000 }
---Who ran for so long did not end in a row with the one before.
local LONG_MS = 180000

local n_crashes = 0
local started_ms = 0
local is_restarting = false
---@type table<string, true>
local told = {}

---Tells something once, until somebody starts the server again.
---@param message string
---@param level integer
function M.tell(message, level)
  if not told[message] then
    told[message] = true
    vim.notify("codegen-lsp: " .. message, level)
  end
end

---@return boolean
function M.is_right_neovim()
  return vim.fn.has("nvim-0.12") == 1
end

---@param path string
---@return string
local function real(path)
  return vim.uv.fs_realpath(path) or vim.fs.normalize(path)
end

---Returns the folder among these that a program lies in. The home folder, and what is above
---it, is nobody's project.
---@param program string
---@param folders string[]
---@return string?
local function folder_of(program, folders)
  local place = real(vim.fs.dirname(program))
  for _, folder in ipairs(folders) do
    folder = real(folder)
    local is_above_home = vim.fs.relpath(folder, real(vim.uv.os_homedir() or "/")) ~= nil
    if not is_above_home and vim.fs.relpath(folder, place) then
      return folder
    end
  end
end

---Whether a person has trusted a file (|:trust|), without asking them.
---@param path string
---@return boolean
local function is_trusted(path)
  local confirm = vim.fn.confirm
  -- vim.secure has no question without a dialog. Opening a file shall open none.
  vim.fn.confirm = function()
    return 0
  end
  local ok, contents = pcall(vim.secure.read, path)
  vim.fn.confirm = confirm
  return ok and contents ~= nil
end

---Returns the command that starts the server, or why there is none and what to do.
---@param folders string[] What is open; a program in there runs if it is trusted.
---@return string[]? command
---@return string? problem
function M.find(folders)
  local command = vim.deepcopy(config.options.cmd)
  local name = command[1]
  if name:find("[/\\]") then
    name = vim.fs.normalize(name)
  end
  local program = vim.fn.exepath(name)
  if program == "" then
    local where = name:find("/") and "is no program" or "is not on PATH"
    return nil,
      ("%s %s; install it with `pipx install codegen-lsp`, or set cmd in "):format(name, where)
        .. 'require("codegen_lsp").setup{}; :checkhealth codegen_lsp says more'
  end
  -- A path that a person's configuration spells out is theirs.
  local folder = program ~= name and folder_of(program, folders)
  if folder and not is_trusted(program) then
    local why = "%s lies in the folder that is open, so it is not started; if it is yours, "
    local cure = ":view it, then :trust, then :CodegenRestart"
    return nil, (why .. cure):format(program)
  end
  command[1] = program
  return command
end

---Returns the folders that a buffer opens: its project, its own, and the working folder.
---@param bufnr integer
---@return string[]
function M.folders(bufnr)
  local folders = { vim.fn.getcwd() }
  local file = vim.api.nvim_buf_get_name(bufnr)
  if file ~= "" then
    table.insert(folders, vim.fs.dirname(file))
    table.insert(folders, vim.fs.root(bufnr, ROOT_MARKERS))
  end
  return folders
end

---Returns how often it ended by itself, in a row.
---@return integer
function M.n_crashes()
  return n_crashes
end

---Starts the server where it is enabled; buffers that it completes are attached.
local function start()
  if vim.lsp.is_enabled(M.NAME) then
    vim.lsp.enable(M.NAME)
  end
end

---Starts the server again, whatever happened before.
function M.restart()
  n_crashes, told = 0, {}
  local clients = vim.lsp.get_clients({ name = M.NAME })
  is_restarting = #clients > 0
  if not is_restarting then
    start()
  end
  for _, client in ipairs(clients) do
    client:stop(2000)
  end
end

---@param code integer
---@param signal integer
---@param client_id integer
local function take_exit(code, signal, client_id)
  if vim.v.exiting ~= vim.NIL then
    return
  end
  status.forget(client_id)
  if is_restarting then
    is_restarting = false
    start()
    return
  elseif signal == 15 or (code == 0 and signal == 0) then
    return -- Somebody stopped it.
  end
  n_crashes = vim.uv.now() - started_ms > LONG_MS and 1 or n_crashes + 1
  local delay_ms = DELAYS_MS[n_crashes]
  if delay_ms then
    vim.defer_fn(start, delay_ms)
  else
    M.tell(
      ("the server ended %d times in a row (exit code %d, signal %d); "):format(
        n_crashes,
        code,
        signal
      ) .. ":CodegenLog shows why, :CodegenRestart starts it again",
      vim.log.levels.ERROR
    )
  end
end

---Tells the running server the settings, which may have changed.
function M.send_settings()
  local settings = { codegen = config.options.settings }
  for _, client in ipairs(vim.lsp.get_clients({ name = M.NAME })) do
    client.settings = settings
    client:notify("workspace/didChangeConfiguration", { settings = settings })
  end
end

---@param client vim.lsp.Client
---@param bufnr integer
local function attach(client, bufnr)
  require("codegen_lsp.keys").map(bufnr, config.options.keys --[[@as codegen_lsp.Keys]])
  if status.is_on then
    vim.lsp.inline_completion.enable(true, { bufnr = bufnr })
  else
    vim.lsp.inline_completion.enable(false, { client_id = client.id })
  end
  vim.api.nvim_create_autocmd({ "CursorMovedI", "TextChangedI", "TextChangedP" }, {
    group = vim.api.nvim_create_augroup("codegen_lsp:" .. bufnr, { clear = true }),
    buffer = bufnr,
    callback = function()
      require("codegen_lsp.ghost").follow(bufnr)
    end,
  })
end

---Switches the suggestions of this server on or off; another server's stay as they are.
---@param is_on boolean
function M.switch(is_on)
  for _, client in ipairs(vim.lsp.get_clients({ name = M.NAME })) do
    for bufnr in pairs(client.attached_buffers) do
      vim.lsp.inline_completion.enable(is_on, { bufnr = bufnr, client_id = client.id })
      if is_on then
        -- It may have been opened while they were off.
        vim.lsp.inline_completion.enable(true, { bufnr = bufnr })
      end
    end
  end
  status.switch(is_on)
end

local function watch()
  local group = vim.api.nvim_create_augroup("codegen_lsp", { clear = true })
  vim.api.nvim_create_autocmd("LspAttach", {
    group = group,
    callback = function(event)
      local client = vim.lsp.get_client_by_id(event.data.client_id)
      if client and client.name == M.NAME then
        attach(client, event.buf)
      end
    end,
  })
  vim.api.nvim_create_autocmd("LspProgress", {
    group = group,
    callback = function(event)
      local client = vim.lsp.get_client_by_id(event.data.client_id)
      if client and client.name == M.NAME then
        local params = event.data.params
        status.take_progress(client.id, params.token, params.value)
      end
    end,
  })
end

---Whether a client serves a buffer of another folder too: one model is enough.
---@param client vim.lsp.Client
---@param wanted vim.lsp.ClientConfig
---@return boolean
local function is_reused(client, wanted)
  if client.name ~= M.NAME or client:is_stopped() then
    return false
  end
  local folder = wanted.root_dir
  if type(folder) ~= "string" then
    return true
  end
  local uri = vim.uri_from_fname(folder)
  local known = client.workspace_folders or {}
  for _, other in ipairs(known) do
    if other.uri == uri then
      return true
    end
  end
  local added = { uri = uri, name = folder }
  client.workspace_folders = vim.list_extend(vim.deepcopy(known), { added })
  if client.initialized then
    local event = { added = { added }, removed = {} }
    client:notify("workspace/didChangeWorkspaceFolders", { event = event })
  end
  return true
end

---Returns what |vim.lsp.config()| takes.
---@return vim.lsp.Config
function M.config()
  watch()
  return {
    cmd = function(dispatchers, wanted)
      local folders = M.folders(vim.api.nvim_get_current_buf())
      table.insert(folders, wanted.root_dir)
      local command, problem = M.find(folders)
      if not command then
        error("codegen-lsp: " .. problem, 0)
      end
      started_ms = vim.uv.now()
      return vim.lsp.rpc.start(command, dispatchers, {
        cwd = wanted.cmd_cwd,
        env = wanted.cmd_env,
        detached = wanted.detached,
      })
    end,
    filetypes = config.options.filetypes,
    settings = { codegen = config.options.settings },
    root_dir = function(bufnr, on_dir)
      local command, problem = nil, M.WRONG_NEOVIM
      if M.is_right_neovim() then
        command, problem = M.find(M.folders(bufnr))
      end
      if command then
        on_dir(vim.fs.root(bufnr, ROOT_MARKERS))
      else
        M.tell(problem --[[@as string]], vim.log.levels.WARN)
      end
    end,
    reuse_client = is_reused,
    before_init = function(params, wanted)
      params.initializationOptions = (wanted.settings or {}).codegen
    end,
    on_init = function(client)
      require("codegen_lsp.ghost").filter_answers(client)
    end,
    on_exit = function(code, signal, client_id)
      vim.schedule(function()
        take_exit(code, signal, client_id)
      end)
    end,
    handlers = { ["codegen/status"] = status.take },
  }
end

return M
