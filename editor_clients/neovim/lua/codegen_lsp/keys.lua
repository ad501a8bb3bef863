-- The keys in insert mode. What a key did before, it does where there is no suggestion.

local M = {}

---@param keys string
---@param remap boolean
local function feed(keys, remap)
  vim.api.nvim_feedkeys(keys, remap and "mi" or "ni", false)
end

---@param keys string
---@return string
local function raw(keys)
  return vim.api.nvim_replace_termcodes(keys, true, true, true)
end

---Does what a mapping does, as |maparg()| describes it; an empty one: what the key does.
---@param key string
---@param mapping table<string, any>
local function press(key, mapping)
  local remap = mapping.noremap == 0
  if mapping.callback then
    local result = mapping.callback()
    if mapping.expr == 1 and type(result) == "string" then
      feed(mapping.replace_keycodes == 1 and raw(result) or result, remap)
    end
  elseif mapping.expr == 1 then
    feed(vim.api.nvim_eval(mapping.rhs), remap)
  elseif mapping.rhs then
    local rhs = mapping.rhs:gsub("<SID>", ("<SNR>%d_"):format(mapping.sid))
    feed(raw(rhs), remap)
  else
    feed(raw(key), false)
  end
end

---Returns the mapping of a key that holds for all buffers.
---@param key string
---@return table<string, any>
local function everywhere(key)
  local code = raw(key)
  for _, mapping in ipairs(vim.api.nvim_get_keymap("i")) do
    if mapping.lhsraw == code or mapping.lhsrawalt == code then
      return mapping
    end
  end
  return {}
end

---Whether an item of the popup menu is selected; the keys are the menu's then.
---@return boolean
local function is_choosing()
  return vim.fn.pumvisible() == 1 and vim.fn.complete_info({ "selected" }).selected >= 0
end

---Maps the keys in a buffer.
---@param bufnr integer
---@param keys codegen_lsp.Keys
function M.map(bufnr, keys)
  if vim.b[bufnr].codegen_lsp_keys then
    return
  end
  vim.b[bufnr].codegen_lsp_keys = true
  for action, key in pairs(keys) do
    if key then
      local before = vim.api.nvim_buf_call(bufnr, function()
        return vim.fn.maparg(key, "i", false, true)
      end)
      if before.buffer ~= 1 then
        before = nil
      end
      vim.keymap.set("i", key, function()
        if is_choosing() or not require("codegen_lsp")[action]() then
          press(key, before or everywhere(key))
        end
      end, { buffer = bufnr, desc = "codegen-lsp: " .. action:gsub("_", " ") })
    end
  end
end

return M
