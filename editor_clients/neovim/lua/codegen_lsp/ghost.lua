-- The suggestion on the screen: kept true while a person types, accepted in parts, cycled.
--
-- Neovim asks, shows and selects (|vim.lsp.inline_completion|). It shows a suggestion where
-- it was asked for, whatever was typed since; here it is moved to the cursor, without what
-- is typed already, or taken away where something else was typed. This is the only file that
-- knows Neovim's internals: what it shows in a buffer, and how it takes an answer. Where
-- they are missing, suggestions are shown and cycled, but not accepted.

local M = {}

local METHOD = "textDocument/inlineCompletion"
local INVOKED, AUTOMATIC = 1, 2

---@class codegen_lsp.Completor What Neovim keeps for a buffer.
---@field current? { _index: integer }
---@field client_state table<integer, { items?: lsp.InlineCompletionItem[] }>
---@field get_item fun(self, index: integer): integer?, lsp.InlineCompletionItem?
---@field count_items fun(self): integer
---@field handler fun(self, err: any, result: any, context: { client_id: integer })
---@field reset_timer fun(self)

---@param bufnr integer
---@return codegen_lsp.Completor?
local function completor(bufnr)
  local ok, capability = pcall(require, "vim.lsp._capability")
  local kind = ok and capability.all.inline_completion
  return kind and kind.active[bufnr] or nil
end

---Names what this file needs of Neovim and does not find.
---@return string[]
function M.missing()
  require("vim.lsp.inline_completion")
  local ok, capability = pcall(require, "vim.lsp._capability")
  local kind = ok and capability.all and capability.all.inline_completion or {}
  return vim.tbl_filter(function(name)
    return kind[name] == nil
  end, { "active", "get_item", "count_items", "handler", "reset_timer" })
end

---Returns the items that go on with what was typed after they were asked for, without it.
---@param bufnr integer
---@param client vim.lsp.Client
---@param items lsp.InlineCompletionItem[]
---@return lsp.InlineCompletionItem[]
local function left(bufnr, client, items)
  local row, column = unpack(vim.api.nvim_win_get_cursor(0))
  row = row - 1
  local line = vim.api.nvim_buf_get_lines(bufnr, row, row + 1, true)[1]
  local cursor = {
    line = row,
    character = vim.str_utfindex(line, client.offset_encoding, column, false),
  }
  ---@param item lsp.InlineCompletionItem
  ---@return string?
  local function rest(item)
    local text, start = item.insertText, item.range and item.range.start or cursor
    if type(text) ~= "string" then
      return nil
    end
    text = text:gsub("\r\n", "\n")
    local first = vim.api.nvim_buf_get_lines(bufnr, start.line, start.line + 1, false)[1]
    if not first or start.line > row then
      return nil
    end
    local from = vim.str_byteindex(first, client.offset_encoding, start.character, false)
    if start.line == row and from > column then
      return nil
    end
    local typed = vim.api.nvim_buf_get_text(bufnr, start.line, from, row, column, {})
    local prefix = table.concat(typed, "\n")
    return vim.startswith(text, prefix) and text:sub(#prefix + 1) or nil
  end
  local found = {}
  for _, item in ipairs(items) do
    local text = rest(item)
    if text and text ~= "" then
      table.insert(found, {
        insertText = text,
        range = { start = cursor, ["end"] = cursor },
        command = item.command,
      })
    end
  end
  return found
end

---Returns the suggestion that Neovim shows in a buffer, and whose it is.
---@param shown codegen_lsp.Completor
---@return vim.lsp.Client?, lsp.InlineCompletionItem?
local function current(shown)
  if not shown.current then
    return nil
  end
  local client_id, item = shown:get_item(shown.current._index)
  local client = client_id and vim.lsp.get_client_by_id(client_id)
  return client, client and item
end

---Lets Neovim show these items, the first one of them, as if they were the answer.
---@param shown codegen_lsp.Completor
---@param client vim.lsp.Client
---@param items lsp.InlineCompletionItem[]
local function show(shown, client, items)
  shown:handler(nil, { items = items }, { client_id = client.id })
end

---Makes the suggestion true of the text before the cursor, or takes it away.
---@param bufnr integer
---@return codegen_lsp.Completor?, vim.lsp.Client?, lsp.InlineCompletionItem?
function M.follow(bufnr)
  local shown = completor(bufnr)
  local client, item = nil, nil
  if shown and vim.api.nvim_get_current_buf() == bufnr then
    client, item = current(shown)
  end
  if not shown or not client or not item then
    return shown
  end
  local now = left(bufnr, client, { item })
  if vim.deep_equal(now[1], item) then
    return shown, client, item
  end
  -- The others stay what they are, after the one that was chosen.
  local others = #now > 0 and shown.client_state[client.id].items or {}
  for _, other in ipairs(left(bufnr, client, others or {})) do
    if other.insertText ~= now[1].insertText then
      table.insert(now, other)
    end
  end
  show(shown, client, now)
  return shown, client, now[1]
end

---Lets an answer of a client pass where it is that to the newest question, and as far as it
---is true of the text when it arrives.
---@param client vim.lsp.Client
function M.filter_answers(client)
  local request = client.request
  local n_asked = 0
  ---@diagnostic disable-next-line: duplicate-set-field
  client.request = function(self, method, params, handler, bufnr)
    if method == METHOD and handler then
      n_asked = n_asked + 1
      local number, take = n_asked, handler
      handler = function(err, result, context)
        if number ~= n_asked then
          return nil
        end
        local asked = context.bufnr or vim.api.nvim_get_current_buf()
        local is_here = vim.api.nvim_get_current_buf() == asked
        local items = is_here and result and (result.items or result) or {}
        return take(err, { items = left(asked, client, items) }, context)
      end
    end
    return request(self, method, params, handler, bufnr)
  end
end

---Asks for suggestions at the cursor, and shows them; where there are none, what is there
---stays.
---@param bufnr integer
---@param client vim.lsp.Client
---@param kind integer
---@param shown_then? fun(shown: codegen_lsp.Completor) Called when they are shown.
local function ask(bufnr, client, kind, shown_then)
  local params = vim.lsp.util.make_position_params(0, client.offset_encoding)
  ---@diagnostic disable-next-line: inject-field
  params.context = { triggerKind = kind }
  client:request(METHOD, params, function(err, result, context)
    local shown = completor(bufnr)
    if shown and shown.client_state[client.id] and not err and #result.items > 0 then
      shown:handler(err, result, context)
      if shown_then then
        shown_then(shown)
      end
    end
  end, bufnr)
end

---@param bufnr integer
---@param text string
local function insert(bufnr, text)
  local row, column = unpack(vim.api.nvim_win_get_cursor(0))
  local lines = vim.split(text, "\n", { plain = true })
  -- So that u takes back what was accepted, and what was typed apart.
  vim.bo[bufnr].undolevels = vim.bo[bufnr].undolevels
  vim.api.nvim_buf_set_text(bufnr, row - 1, column, row - 1, column, lines)
  vim.api.nvim_win_set_cursor(0, {
    row + #lines - 1,
    (#lines == 1 and column or 0) + #lines[#lines],
  })
end

---Inserts the part of the suggestion that ``part`` takes of its text, which may be all.
---@param part fun(text: string): string
---@return boolean whether there was a suggestion
function M.accept(part)
  local bufnr = vim.api.nvim_get_current_buf()
  local shown, client, item = M.follow(bufnr)
  if not shown or not client or not item then
    return false
  end
  local function take()
    local text = part(item.insertText --[[@as string]])
    insert(bufnr, text)
    -- What is left goes on from here; if that is nothing, what comes next is asked for.
    show(shown, client, left(bufnr, client, { item }))
    if #text == #item.insertText then
      if item.command then
        client:exec_cmd(item.command, { bufnr = bufnr })
      end
      ask(bufnr, client, AUTOMATIC)
    end
  end
  local ok, problem = pcall(take)
  if not ok and tostring(problem):find("E565") then
    -- An <expr> mapping may not change the text; what comes after it may.
    vim.schedule(function()
      M.accept(part)
    end)
  elseif not ok then
    error(problem, 0)
  end
  return true
end

---Shows the suggestion that is so many further; asks for several where there is one at most.
---@param count integer
---@return boolean whether there is anybody to ask
function M.cycle(count)
  local bufnr = vim.api.nvim_get_current_buf()
  local shown, _, item = M.follow(bufnr)
  if shown and shown:count_items() > 1 then
    vim.lsp.inline_completion.select({ bufnr = bufnr, count = count })
    return true
  end
  local client = vim.lsp.get_clients({ bufnr = bufnr, name = "codegen_lsp" })[1]
  if not shown or not client or not shown.client_state[client.id] then
    return false
  end
  -- Who typed a moment ago would get the answer to that instead.
  shown:reset_timer()
  ask(bufnr, client, INVOKED, function(now)
    local _, first = current(now)
    if item and first and first.insertText == item.insertText then
      vim.lsp.inline_completion.select({ bufnr = bufnr, count = count })
    end
  end)
  return true
end

return M
