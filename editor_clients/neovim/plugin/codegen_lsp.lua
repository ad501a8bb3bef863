-- Defines the commands; what they need is loaded when one is used.

if vim.g.loaded_codegen_lsp then
  return
end
vim.g.loaded_codegen_lsp = true

---@param name string
---@param action string
---@param desc string
local function command(name, action, desc)
  vim.api.nvim_create_user_command(name, function()
    require("codegen_lsp.commands")[action]()
  end, { desc = desc })
end

command("CodegenWriteTurn", "write_turn", "Write the program of the comment at the cursor")
command("CodegenWriteAllTurns", "write_all_turns", "Write all programs from here down")
command("CodegenRewriteTurn", "rewrite_turn", "Write another program for the comment here")
command("CodegenRewriteStale", "rewrite_stale", "Write anew what a changed comment made stale")
command("CodegenStop", "stop_writing", "Stop writing programs")
command("CodegenToggle", "toggle", "Switch suggestions off, and on again")
command("CodegenRestart", "restart", "Start the server again")
command("CodegenLog", "log", "Show what the server logged")
command("CodegenWhy", "why", "Say why there was no suggestion")
