-- What the commands do; |codegen-lsp-commands| says it for people.

local status = require("codegen_lsp.status")

local M = {}

local NAME = "codegen_lsp"

---@param message string
local function tell(message)
  vim.notify("codegen-lsp: " .. message, vim.log.levels.WARN)
end

---Sends a command of the server.
---@param command string
---@param arguments any[]
local function execute(command, arguments)
  local bufnr = vim.api.nvim_get_current_buf()
  local client = vim.lsp.get_clients({ bufnr = bufnr, name = NAME })[1]
  if not client then
    tell("no server is attached to this buffer; :checkhealth codegen_lsp says why")
    return
  end
  client:exec_cmd(
    { title = command, command = command, arguments = arguments },
    { bufnr = bufnr }
  )
end

---@param command string
local function execute_here(command)
  local line = vim.api.nvim_win_get_cursor(0)[1] - 1
  execute(command, { vim.uri_from_bufnr(0), line })
end

function M.write_turn()
  execute_here("codegen.writeTurn")
end

function M.write_all_turns()
  execute_here("codegen.writeAllTurns")
end

function M.rewrite_turn()
  execute_here("codegen.rewriteTurn")
end

function M.rewrite_stale()
  execute_here("codegen.rewriteStale")
end

function M.why()
  execute("codegen.whyNoSuggestion", { vim.uri_from_bufnr(0) })
end

---Stops what shows its progress and can be stopped.
function M.stop_writing()
  local running = status.stoppable
  local client = running and vim.lsp.get_client_by_id(running.client_id)
  if not running or not client then
    tell("nothing is being written")
    return
  end
  client:notify("window/workDoneProgress/cancel", { token = running.token })
end

function M.toggle()
  require("codegen_lsp.server").switch(not status.is_on)
  vim.notify("codegen-lsp: suggestions are " .. (status.is_on and "on" or "off"))
end

function M.restart()
  require("codegen_lsp.server").restart()
end

---Opens what the server wrote to its standard error, which is in Neovim's log of servers.
function M.log()
  local path = vim.lsp.log.get_filename()
  local lines = {}
  if vim.uv.fs_stat(path) then
    for line in io.lines(path) do
      -- [ERROR][time] where "rpc" "program" "stderr" "text", the last as Lua would write it.
      local when, text = line:match('^%[%u+%]%[([^%]]+)%].-\t"stderr"\t["\'](.*)["\']$')
      if when and line:find("codegen", 1, true) then
        text = text:gsub("\\(.)", { n = "\n", t = "\t" })
        for part in vim.gsplit(text, "\n", { trimempty = true }) do
          table.insert(lines, ("%s  %s"):format(when, part))
        end
      end
    end
  end
  if #lines == 0 then
    lines = { "The server has logged nothing yet." }
  end
  vim.cmd.new()
  local bufnr = vim.api.nvim_get_current_buf()
  vim.bo[bufnr].buftype = "nofile"
  vim.bo[bufnr].bufhidden = "wipe"
  vim.bo[bufnr].swapfile = false
  vim.api.nvim_buf_set_lines(bufnr, 0, -1, true, lines)
  vim.bo[bufnr].modifiable = false
  vim.api.nvim_win_set_cursor(0, { #lines, 0 })
end

return M
