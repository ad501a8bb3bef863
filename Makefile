# Two commands set everything up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EDITORS := .editors
VSCODE := editor_clients/vscode
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: bundle demo editors test vsix wheel
.DELETE_ON_ERROR:

# Writes a small program in several turns; MODEL=… names another model.
demo: $(VENV)/.installed
	@$(BIN)/codegen-lsp demo $(if $(MODEL),--model "$(MODEL)")

# Lint, types, and all tests; what is skipped is listed at the end with its reason. The
# editors come last, VS Code beside Neovim: how soon they answer is measured with nothing
# else running.
test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder --ignore tests/editors
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder tests/editors/test_vscode.py tests/editors

# The editors that the tests drive, in a folder of this project.
editors: $(EDITORS)/neovim/.installed $(EDITORS)/vscode/.installed

$(EDITORS)/neovim/.installed: editor_clients/setup_neovim.sh
	editor_clients/setup_neovim.sh $(EDITORS)/neovim
	@touch $@

$(EDITORS)/vscode/.installed: editor_clients/setup_vscode.sh
	editor_clients/setup_vscode.sh $(EDITORS)/vscode
	@touch $@

# What users install, in dist/. Neither is made again while what it is made of is the same.
wheel: dist/.wheel

vsix: dist/codegen-lsp.vsix

# Its name holds the version, so a file without one says when it was made.
dist/.wheel: pyproject.toml README.md $(shell find lsp_server model_export model_eval -type f ! -name '*.pyc') | $(BIN)/python
	rm -rf dist/*.whl
	$(PIP) wheel --no-deps --wheel-dir dist .
	@touch $@

# The extension for VS Code carries the wheel, so that it can install the server offline.
dist/codegen-lsp.vsix: dist/.wheel LICENSE $(VSCODE)/node_modules/.installed $(wildcard $(VSCODE)/*.* $(VSCODE)/src/* $(VSCODE)/media/*)
	rm -rf $(VSCODE)/server $(VSCODE)/dist
	mkdir $(VSCODE)/server
	cp dist/*.whl $(VSCODE)/server
	cp LICENSE $(VSCODE)
	cd $(VSCODE) && npm run --silent check && npx vsce package --no-dependencies --allow-missing-repository --out ../../$@

$(VSCODE)/node_modules/.installed: $(VSCODE)/package-lock.json
	cd $(VSCODE) && npm ci --silent
	@touch $@

# All of it for a machine without a network, with the wheels that the server needs, and
# with SmolLM2-135M where that was pulled.
MODEL_NAME := smollm2-135m
bundle: dist/.wheel dist/codegen-lsp.vsix | $(VENV)/.installed
	rm -rf dist/wheels
	$(PIP) download --dest dist/wheels dist/*.whl
	editor_clients/make_bundle.sh dist/codegen-lsp-bundle.tar dist/wheels dist/codegen-lsp.vsix $$($(BIN)/python -c 'from lsp_server.models import origin_of, source_folder; folder = source_folder(origin_of("$(MODEL_NAME)").place); print("$(MODEL_NAME)", folder) if folder.is_dir() else None')

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "codegen-lsp needs Python >= 3.11; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(PIP) install --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(PIP) install --no-compile --editable '.[dev]'
	@touch $(VENV)/.installed $@
