"""A language server that completes code with CodeGen, offline, one turn after another."""
