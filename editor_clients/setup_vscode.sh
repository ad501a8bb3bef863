#!/usr/bin/env bash
# Installs what the tests of the VS Code extension drive into the folder DIR: code-server,
# the Node that it needs, and playwright-core. All of it comes from npm, no install script
# is run and nothing is compiled. The one thing outside DIR is Debian's chromium, and that
# only where /usr/bin/chromium is missing. May be run again after a failure.
set -euo pipefail
DIR=${1:?usage: setup_vscode.sh DIR}

fail() { echo "setup_vscode.sh: $1" >&2; exit 1; }
command -v node >/dev/null && command -v npm >/dev/null \
  || fail "node and npm are missing; on Debian: apt-get install nodejs npm"
[ "$(uname -s)" = Linux ] || fail "code-server is installed on Linux only"

install_chromium() {
  [ -x /usr/bin/chromium ] && return
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null \
    || fail "chromium is missing; as root: apt-get install chromium"
  echo "Installing Debian's chromium."
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null
}

# Each takes about half a minute, and they wait for different things.
install_chromium &
chromium=$!

mkdir -p "$DIR"
cd "$DIR"
export PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1
export npm_config_{fund,audit,update_notifier,package_lock}=false npm_config_ignore_scripts=true
echo '{ "name": "codegen-lsp-editors", "private": true }' > package.json
echo "Installing code-server, its Node and playwright-core."
npm install --silent "node-linux-$(node -p process.arch)@24.19.0" code-server@4.139.1 playwright-core@1.65.1
# Its own list of versions lacks an entry, so that `npm ci` would refuse it.
(cd node_modules/code-server/lib/vscode && npm install --silent --omit=dev)

wait $chromium || fail "chromium could not be installed"
# It writes a configuration even now, and not into the home of whoever installs it.
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
HOME=$home XDG_CONFIG_HOME=$home node_modules/node-linux-*/bin/node node_modules/code-server/out/node/entry.js --version
chromium --version 2>/dev/null
