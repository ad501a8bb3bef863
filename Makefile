# Two commands set everything up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EDITORS := .editors
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo editors test

# Writes a small program in several turns; MODEL=… names another model.
demo: $(VENV)/.installed
	@$(BIN)/codegen-lsp demo $(if $(MODEL),--model "$(MODEL)")

# Lint, types, and all tests; what is skipped is listed at the end with its reason.
test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

# The editors that the tests drive, in a folder of this project.
editors: $(EDITORS)/neovim/.installed $(EDITORS)/vscode/.installed

$(EDITORS)/neovim/.installed: editor_clients/setup_neovim.sh
	editor_clients/setup_neovim.sh $(EDITORS)/neovim
	@touch $@

$(EDITORS)/vscode/.installed: editor_clients/setup_vscode.sh
	editor_clients/setup_vscode.sh $(EDITORS)/vscode
	@touch $@

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "codegen-lsp needs Python >= 3.11; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --editable '.[dev]'
	@touch $@
