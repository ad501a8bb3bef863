-- What a person may set, and what is taken where nothing is set.

local M = {}

---@class codegen_lsp.Keys In insert mode; false switches one off.
---@field accept? string|false All of the suggestion.
---@field accept_word? string|false Its next word.
---@field accept_line? string|false The rest of its line.
---@field next? string|false Another suggestion; asks for one where there is none.
---@field previous? string|false The one before.
---@field dismiss? string|false None, until something is typed.

---@class codegen_lsp.Options
---@field cmd? string[] The server's program and its arguments. A program without a folder
---  is looked for on PATH.
---@field filetypes? string[] Where it completes.
---@field keys? codegen_lsp.Keys|false
---@field settings? table<string, any> What the README calls settings: model, suggest, ...

---@type codegen_lsp.Options
local DEFAULTS = {
  cmd = { "codegen-lsp", "serve" },
  filetypes = {
    "python",
    "c",
    "cpp",
    "go",
    "java",
    "javascript",
    "javascriptreact",
    "typescript",
    "typescriptreact",
  },
  keys = {
    accept = "<Tab>",
    accept_word = "<M-w>",
    accept_line = "<M-l>",
    next = "<M-n>",
    previous = "<M-p>",
    dismiss = "<M-d>",
  },
  -- In JSON an object, not a list.
  settings = vim.empty_dict(),
}

---@type codegen_lsp.Options
M.options = DEFAULTS

---Takes a person's options; what they leave out is the default.
---@param options? codegen_lsp.Options
function M.set(options)
  options = options or {}
  vim.validate("options", options, "table")
  for name in pairs(options) do
    if DEFAULTS[name] == nil then
      error(("codegen_lsp: there is no option %s; see :help codegen-lsp-setup"):format(name), 0)
    end
  end
  vim.validate("cmd", options.cmd, function(cmd)
    return cmd == nil or type(cmd) == "table" and type(cmd[1]) == "string"
  end, "a list of a program and its arguments")
  vim.validate("filetypes", options.filetypes, "table", true)
  vim.validate("settings", options.settings, "table", true)
  vim.validate("keys", options.keys, function(keys)
    return keys == nil or keys == false or type(keys) == "table"
  end, "a table, or false for none")
  for name in pairs(options.keys or {}) do
    if DEFAULTS.keys[name] == nil then
      error(("codegen_lsp: there is no key %s; see :help codegen-lsp-keys"):format(name), 0)
    end
  end
  M.options = vim.tbl_extend("force", DEFAULTS, options)
  M.options.keys = options.keys == false and {}
    or vim.tbl_extend("force", DEFAULTS.keys, options.keys or {})
  if vim.tbl_isempty(M.options.settings) then
    M.options.settings = DEFAULTS.settings
  end
end

return M
