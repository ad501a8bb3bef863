"""The plug-in's own files: their style, and what they cost a Neovim that starts."""

import os
import re
import shutil
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median
from subprocess import run

import pytest

from tests.editors import figures
from tests.editors.installed import EDITORS, ROOT, installed
from tests.editors.neovim import NEOVIM, PLUGIN, environment, lua, set_up

SOURCES = sorted(PLUGIN.rglob("*.lua"))
SYSTEM = EDITORS / "neovim" / "root" / "usr"
N_STARTS = 9


def test_lua_is_formatted() -> None:
    """Every file is as stylua writes it."""
    stylua = installed(EDITORS.joinpath("neovim", "lua/node_modules/@johnnymorganz/stylua"))
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node")
    script = ROOT / "editor_clients" / "check_lua_style.mjs"
    checked = run([node, script, stylua, *SOURCES], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_lua_has_no_faults() -> None:
    """No name is unused, unknown or hidden by another, as luacheck sees it."""
    luacheck = installed(SYSTEM / "bin" / "luacheck")
    modules, libraries = SYSTEM / "share/lua/5.1", SYSTEM / "lib/x86_64-linux-gnu/lua/5.1"
    variables = {
        **os.environ,
        "LUA_PATH": f"{modules}/?.lua;{modules}/?/init.lua",
        "LUA_CPATH": f"{libraries}/?.so",
    }
    # It is a Lua program, and Neovim is a Lua.
    command = [str(installed(NEOVIM)), "-l", str(luacheck), "--no-color", "."]
    checked = run(command, cwd=PLUGIN, env=variables, capture_output=True, text=True)
    # Neovim's Lua prints on standard error.
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_what_starting_costs(tmp_path: Path, record_property: figures.RecordProperty) -> None:
    """How long the plug-in keeps a starting Neovim is reported, and never asserted."""
    # Another server's configuration, so that what Neovim itself loads is on both sides.
    plain = "vim.lsp.config('none', { cmd = { 'none' } }) vim.lsp.enable('none')"
    ours = f"vim.opt.runtimepath:prepend({lua(PLUGIN)}) {set_up(None)} {plain}"
    pairs = [(start_ms(tmp_path, ours), start_ms(tmp_path, plain)) for _ in range(N_STARTS)]
    with_it, without = zip(*pairs, strict=True)
    cost = median(with_it) - median(without)
    what = "Neovim: processor time that setup{} adds to the start"
    figures.record(record_property, what, [cost])


def start_ms(folder: Path, lines: str) -> float:
    """Return the processor time of a start with a configuration, in milliseconds.

    Unlike the clock's, it is much the same on a busy machine.
    """
    init = folder / "init.lua"
    init.write_text(lines, encoding="utf-8")
    before = getrusage(RUSAGE_CHILDREN)
    run(
        [installed(NEOVIM), "--headless", "--clean", "-n", "-u", init, "+qall!"],
        env=environment(folder),
        check=True,
        capture_output=True,
    )
    after = getrusage(RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return 1e3 * seconds


def test_the_help_names_every_command_and_option() -> None:
    """Whoever adds a command or an option describes it."""
    text = (PLUGIN / "doc" / "codegen_lsp.txt").read_text(encoding="utf-8")
    commands = (PLUGIN / "plugin" / "codegen_lsp.lua").read_text(encoding="utf-8")
    options = (PLUGIN / "lua" / "codegen_lsp" / "config.lua").read_text(encoding="utf-8")
    names = re.findall(r'^command\("(\w+)"', commands, re.M)
    assert len(names) > 5
    for name in names:
        assert f"*:{name}*" in text
    defaults = options.partition("local DEFAULTS = {")[2].partition("\n}")[0]
    for name in re.findall(r"^ +(\w+) =", defaults, re.M):
        assert re.search(rf"\b{name}\b", text), name
