#!/bin/sh
# Installs codegen-lsp from this folder and nothing else: install.sh [FOLDER]
# FOLDER gets the virtual environment; PYTHON names a Python 3.11 or newer.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-${XDG_DATA_HOME:-$HOME/.local/share}/codegen-lsp}
programs=$HOME/.local/bin

"${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "codegen-lsp needs Python 3.11 or newer; name one with PYTHON=...")'
"${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/python" -m pip --disable-pip-version-check --quiet install \
  --no-index --find-links "$here/wheels" codegen-lsp
mkdir -p "$programs"
ln -sf "$folder/bin/codegen-lsp" "$programs/codegen-lsp"
echo "installed $programs/codegen-lsp"

if [ -d "$here/models" ]; then
  cache=$("$folder/bin/python" -c 'from platformdirs import user_cache_path as path; print(path("codegen-lsp"))')
  mkdir -p "$cache/sources"
  cp -R "$here/models/." "$cache/sources"
  "$folder/bin/codegen-lsp" pull --offline "$(cat "$here/models/.name")"
fi

plugins=${XDG_DATA_HOME:-$HOME/.local/share}/nvim/site/pack/codegen-lsp/start
mkdir -p "$plugins"
rm -rf "$plugins/codegen-lsp"
cp -R "$here/neovim" "$plugins/codegen-lsp"
echo "installed the Neovim plug-in; add this to init.lua: require(\"codegen_lsp\").setup()"

echo "for VS Code: code --install-extension $here/codegen-lsp.vsix"
case ":$PATH:" in
*":$programs:"*) ;;
*) echo "add $programs to PATH" ;;
esac
