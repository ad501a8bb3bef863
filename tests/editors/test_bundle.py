"""The archive for machines without a network, installed where there is none."""

import os
import shutil
import sys
import tarfile
from pathlib import Path
from subprocess import CompletedProcess, run

import pytest

from tests.editors.installed import ROOT
from tests.editors.wheels import make_wheels

pytestmark = pytest.mark.e2e

MADE = ROOT / "dist" / "codegen-lsp-bundle.tar"
# A namespace of its own, in which there is no network at all.
OFFLINE = ("unshare", "--net", "--map-root-user")


@pytest.fixture(params=["light", "made"])
def bundle(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return an archive: one of the packages that run the tests, or what was made."""
    if request.param == "made":
        if not MADE.exists():
            pytest.skip(f"{MADE} is not there; `make bundle` makes it")
        return MADE
    wheels, vsix, archive = tmp_path / "wheels", tmp_path / "empty.vsix", tmp_path / "light.tar"
    wheels.mkdir()
    vsix.touch()
    make_wheels("codegen-lsp", wheels)
    building = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps"]
    run([*building, "--wheel-dir", str(wheels), str(ROOT)], check=True)
    script = ROOT / "editor_clients" / "make_bundle.sh"
    run([script, archive, wheels, vsix], check=True)
    return archive


def test_it_installs_and_completes_without_a_network(bundle: Path, tmp_path: Path) -> None:
    """The script needs its own folder alone; then the server completes and a model answers."""
    can_unshare = shutil.which("unshare") and not run([*OFFLINE, "true"]).returncode
    if not can_unshare:
        pytest.skip("this machine lets nobody do without a network (unshare)")
    home = tmp_path / "home"
    home.mkdir()
    with tarfile.open(bundle) as archive:
        archive.extractall(tmp_path, filter="data")
    variables = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHON": sys.executable}

    def offline(*command: str | Path) -> "CompletedProcess[str]":
        done = run([*OFFLINE, *command], env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done

    offline(tmp_path / "codegen-lsp" / "install.sh")
    program = home / ".local" / "bin" / "codegen-lsp"
    file = tmp_path / "file.py"
    file.write_text("# Count the words of a text.\n", encoding="utf-8")
    completed = offline(program, "complete", file, "--line", "1", "--character", "0", "--json")
    assert '"insertText"' in completed.stdout
    assert str(home) in offline(program, "doctor").stdout
    plugins = home / ".local" / "share" / "nvim" / "site" / "pack" / "codegen-lsp" / "start"
    assert (plugins / "codegen-lsp" / "lua" / "codegen_lsp" / "init.lua").is_file()
