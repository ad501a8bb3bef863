#!/usr/bin/env bash
# Puts all that a machine without a network needs into one archive:
# make_bundle.sh ARCHIVE WHEELS VSIX [MODEL_NAME MODEL_FOLDER]
set -euo pipefail
clients=$(cd "$(dirname "$0")" && pwd)
archive=$1 wheels=$2 vsix=$3

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bundle=$work/codegen-lsp
mkdir -p "$bundle/wheels"
cp "$wheels"/*.whl "$bundle/wheels"
cp "$vsix" "$bundle/codegen-lsp.vsix"
cp "$clients"/bundle/* "$bundle"
cp -R "$clients/neovim" "$bundle/neovim"
if [[ $# == 5 ]]; then
  mkdir "$bundle/models"
  cp -R "$5" "$bundle/models"
  echo "$4" >"$bundle/models/.name"
fi
mkdir -p "$(dirname "$archive")"
# What is inside is compressed already.
tar -cf "$archive" -C "$work" codegen-lsp
