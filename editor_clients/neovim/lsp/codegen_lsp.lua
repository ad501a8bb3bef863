-- What `vim.lsp.enable("codegen_lsp")` starts.
return require("codegen_lsp.server").config()
