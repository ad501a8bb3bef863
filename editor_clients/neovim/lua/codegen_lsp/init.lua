-- Completions of codegen-lsp: what a person's configuration calls.

local M = {}

---Starts the server for the files that it completes, with these options.
---
---Called again, it passes changed settings on to the server that runs.
---@param options? codegen_lsp.Options
function M.setup(options)
  local server = require("codegen_lsp.server")
  if not server.is_right_neovim() then
    server.tell(server.WRONG_NEOVIM, vim.log.levels.ERROR)
    return
  end
  require("codegen_lsp.config").set(options)
  vim.lsp.enable(server.NAME)
  server.send_settings()
end

---Accepts the whole suggestion; returns whether there was one.
---@return boolean
function M.accept()
  return require("codegen_lsp.ghost").accept(function(text)
    return text
  end)
end

---Accepts the next word of the suggestion, with the space before it.
---@return boolean
function M.accept_word()
  return require("codegen_lsp.ghost").accept(function(text)
    -- Letters beyond ASCII are bytes from 128 on.
    return text:match("^%s*[%w_\128-\255]+") or text:match("^%s*[^%s%w_\128-\255]+") or text
  end)
end

---Accepts the rest of the line, or the next line where the suggestion begins with its end.
---@return boolean
function M.accept_line()
  return require("codegen_lsp.ghost").accept(function(text)
    return text:match("^\n*[^\n]+") or text
  end)
end

---Shows another suggestion; asks for more where there is none.
---@return boolean
function M.next()
  return require("codegen_lsp.ghost").cycle(1)
end

---Shows the suggestion before; asks for more where there is none.
---@return boolean
function M.previous()
  return require("codegen_lsp.ghost").cycle(-1)
end

---Hides the suggestion until something is typed; returns whether there was one.
---@return boolean
function M.dismiss()
  return vim.lsp.inline_completion.get({
    on_accept = function()
      return nil
    end,
  })
end

---Returns a few words for the statusline: the model, and what it does; nothing where the
---buffer has no server.
---@param bufnr? integer
---@return string
function M.status(bufnr)
  return require("codegen_lsp.status").text(bufnr or 0)
end

return M
