"""The command line and the server where every attempt to reach the network is noticed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lsp_server.models import embedded_checkpoint
from tests.e2e.clients import SERVER, connected

pytestmark = pytest.mark.e2e

_TEXT = "class Point:\n    def __init__(self, x, y):\n        # Store the coordinates.\n"
_DEADLINE_S = 120
# Where onnxruntime sees continuous integration it collects nothing.
_NOT_CI = {key: value for key, value in os.environ.items() if key != "CI"}
_SITE = """
import socket

def refuse(*arguments, **options):
    with open({mark!r}, "a") as file:
        file.write(repr(arguments))
    raise OSError("there is no network")

socket.getaddrinfo = socket.socket.connect = socket.socket.connect_ex = refuse
"""


class Blocked:
    """An environment without a network; ``mark`` is there once somebody tried it."""

    def __init__(self, folder: Path) -> None:
        """Keep all in this folder."""
        self.mark = folder / "mark"
        site = folder / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(_SITE.format(mark=str(self.mark)))
        self.env = {
            "PYTHONPATH": str(site),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "HF_HOME": str(folder / "hub"),
            # Whatever the person's own environment says.
            "ORT_DISABLE_TELEMETRY": "0",
        }

    def has_native_telemetry(self) -> bool:
        """Tell whether onnxruntime began to collect what it would send."""
        return (Path(self.env["XDG_CACHE_HOME"]) / "Microsoft").exists()

    def run(self, *arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        """Return a finished command."""
        return subprocess.run(
            [sys.executable, "-m", "lsp_server", *map(str, arguments)],
            capture_output=True,
            encoding="utf-8",
            env={**_NOT_CI, **self.env, **env},
            stdin=subprocess.DEVNULL,
            timeout=_DEADLINE_S,
        )


@pytest.fixture
def blocked(tmp_path: Path) -> Blocked:
    """Return an environment without a network and with empty caches."""
    return Blocked(tmp_path)


async def test_serving_never_tries_the_network(blocked: Blocked, tmp_path: Path) -> None:
    """The server exports, loads and completes with what the package carries."""
    async with connected(SERVER, env=blocked.env, folder=tmp_path) as client:
        client.open(_TEXT + "        ")
        await client.status("ready")
        assert await client.items(3, 8)
    assert not blocked.mark.exists()
    assert not blocked.has_native_telemetry()


async def test_serving_a_model_that_is_not_here_never_tries_the_network(
    blocked: Blocked, tmp_path: Path
) -> None:
    """The editor is told which command gets the model, and the server does not run it."""
    command = [*SERVER, "--model", "codegen-350m-mono"]
    advice = "`codegen-lsp pull codegen-350m-mono` gets it"
    async with connected(command, env=blocked.env, folder=tmp_path) as client:
        await client.until(
            lambda: any(advice in status.message for status in client.statuses) or None
        )
    assert not blocked.mark.exists()


def test_commands_that_run_a_model_never_try_the_network(
    blocked: Blocked, tmp_path: Path
) -> None:
    """Nothing is fetched unless a person asked for that name."""
    file = tmp_path / "point.py"
    file.write_text(_TEXT)
    position = ("--line", "3", "--character", "0")
    for model in ("tiny", embedded_checkpoint()):
        assert blocked.run("complete", file, *position, "--model", model).returncode == 0
    for name in ("smollm2-135m", "some/model"):
        run = blocked.run("complete", file, *position, "--model", name)
        assert (run.returncode, run.stderr.count("\n")) == (1, 1)
        assert f"`codegen-lsp pull {name}` gets it" in run.stderr
    listed = blocked.run("models")
    assert (listed.returncode, listed.stdout) == (0, blocked.run("models", "--offline").stdout)
    assert blocked.run("pull", "tiny").returncode == 0
    assert blocked.run("models", "remove", "tiny").returncode == 0
    assert not blocked.mark.exists()
    assert not blocked.has_native_telemetry()


@pytest.mark.parametrize("name", ["some/model", "smollm2-135m"])
def test_pulling_offline_never_tries_the_network(name: str, blocked: Blocked) -> None:
    """--offline and HF_HUB_OFFLINE are one line each, without an attempt."""
    by_variable = {"HF_HUB_OFFLINE": "1"}
    for run in (
        blocked.run("pull", name, "--offline"),
        blocked.run("pull", name, **by_variable),
    ):
        assert (run.returncode, run.stdout, run.stderr.count("\n")) == (1, "", 1)
        assert "was never fetched, and without the network it cannot be" in run.stderr
    assert not blocked.mark.exists()


def test_an_attempt_would_be_noticed(blocked: Blocked) -> None:
    """The tests above can fail: a pull tries the network, onnxruntime alone collects."""
    code = "import onnxruntime; onnxruntime.InferenceSession('none')"
    subprocess.run([sys.executable, "-c", code], capture_output=True, env=_NOT_CI | blocked.env)
    assert blocked.has_native_telemetry()
    run = blocked.run("pull", "some/model")
    assert (run.returncode, run.stderr.count("\n")) == (1, 1)
    assert blocked.mark.exists()
