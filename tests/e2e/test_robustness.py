"""Hostile folders, broken messages and logs, on the real server."""

import asyncio
import json
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from lsprotocol import types

from tests.e2e.clients import DEADLINE_S, FAKE_SERVER, SERVER, Client, answered, connected

pytestmark = pytest.mark.e2e

_CANARY = "canary_7f3a"


async def test_nothing_of_a_hostile_folder_runs(tmp_path: Path) -> None:
    """Opening, completing, steering and checking in a folder runs none of its files."""
    mark = tmp_path / "mark"
    folder = tmp_path / "project"
    leave_mark = f"open({str(mark)!r}, 'a').write(__name__)\n"
    packages = folder / ".venv/lib/python3.11/site-packages"
    packages.mkdir(parents=True)
    (folder / ".venv/pyvenv.cfg").write_text("home = /nowhere\n")
    (packages / "evil.pth").write_text(f"import sys; {leave_mark}")
    (folder / ".vscode").mkdir()
    settings = {"python.defaultInterpreterPath": "${workspaceFolder}/.venv/bin/python"}
    (folder / ".vscode/settings.json").write_text(json.dumps(settings))
    for name in (
        *("sitecustomize", "usercustomize", "conftest", "evil"),
        *("jedi", "lsp_server", "onnxruntime", "json"),
    ):
        (folder / f"{name}.py").write_text(leave_mark)
        (packages / f"{name}.py").write_text(leave_mark)
    interpreter = folder / ".venv/bin/python"
    interpreter.parent.mkdir()
    interpreter.write_text(f"#!/bin/sh\ntouch {mark}\n")
    interpreter.chmod(0o755)
    command = [str(Path(sys.executable).with_name("codegen-lsp")), "serve"]
    options = {"checkDeadlineMs": 10_000}
    uri = (folder / "a.py").as_uri()
    async with connected(command, folder=folder, cwd=folder, options=options) as client:
        await client.status("ready")
        client.open("import evil, conftest\nimport sitecustomize\nevil.conftest.", uri=uri)
        await client.items(2, 14, uri=uri)
    assert not mark.exists()


def _worker(client: Client) -> psutil.Process | None:
    for child in psutil.Process(client.process.pid).children(recursive=True):
        # One that has just ended has no command line.
        with suppress(psutil.Error):
            if "lsp_server.check_worker" in child.cmdline():
                return child
    return None


async def test_a_worker_that_is_killed_costs_an_answer_its_check() -> None:
    """Completions go on without the analyser, and another one takes its place."""
    options = {"candidates": 1, "maxNewTokens": 8, "checkDeadlineMs": 2_000}
    async with connected(SERVER, options=options) as client:
        await client.status("ready")
        client.open("import os\nx = os.path.")
        await client.items(1, 12)
        first = await client.until(lambda: _worker(client))
        first.suspend()
        client.insert(1, 12, "join(os.")
        pending = client.request(1, 20)
        first.kill()
        await answered(pending)
        client.insert(1, 20, "path.")
        await client.items(1, 25)
        second = await client.until(lambda: _worker(client))
        assert second.pid != first.pid


async def test_logs_hold_no_text_of_a_document(tmp_path: Path) -> None:
    """Not in answers, failures or messages that cannot be read is a user's text logged."""
    command = [*FAKE_SERVER, str(tmp_path / "log")]
    text = f"{_CANARY} = 1\nFAIL = "
    messages = [
        _request(1, "initialize", {"capabilities": {}, "processId": None, "rootUri": None}),
        _notification("initialized", {}),
        _notification(
            "textDocument/didOpen",
            {
                "textDocument": {
                    "uri": "file:///a.py",
                    "languageId": "python",
                    "version": 1,
                    "text": text,
                }
            },
        ),
        _request(2, "textDocument/inlineCompletion", _position(1, 7)),
        _request(3, "textDocument/inlineCompletion", {"textDocument": _CANARY}),
        _notification("textDocument/didChange", {"contentChanges": [_CANARY]}),
        _request(4, f"unknown/{_CANARY}", {"text": _CANARY}),
        _notification("textDocument/didChange", {"textDocument": {"uri": _CANARY}}),
        _request(5, "shutdown", None),
        _notification("exit", None),
    ]
    run = await _raw(command, b"".join(messages))
    assert run.returncode == 0
    assert _CANARY not in run.stderr


async def test_broken_messages_do_not_end_the_server(tmp_path: Path) -> None:
    """Wrong types and unknown methods get an error each, and the rest is answered."""
    broken = [
        _request(1, "initialize", {"capabilities": {}, "processId": None, "rootUri": None}),
        _notification("initialized", {}),
        _frame("no json at all"),
        _frame("[]"),
        _frame("{}"),
        _request(2, "no/such/method", {}),
        _request(3, "textDocument/inlineCompletion", {"position": "here"}),
        _notification("textDocument/didOpen", {"textDocument": 7}),
        _notification("no/such/notification", {}),
        _notification("$/cancelRequest", {"id": 99}),
        _request(4, "textDocument/inlineCompletion", _position(0, 0)),
        _request(5, "shutdown", None),
        _notification("exit", None),
    ]
    run = await _raw([*FAKE_SERVER, str(tmp_path / "log")], b"".join(broken))
    answers = {answer["id"]: answer for answer in _frames(run.stdout) if "id" in answer}
    assert "error" in answers[2]
    assert "error" in answers[3]
    assert answers[4]["result"] == {"items": []}
    assert run.returncode == 0


_NO_MESSAGES = {
    "too short": "Content-Length: 3\r\n\r\n{}",
    "too long": "Content-Length: 4000\r\n\r\n{}",
    "negative": "Content-Length: -1\r\n\r\n{}",
    "no number": "Content-Length: many\r\n\r\n{}",
    "nothing": "Content-Length: \r\n\r\n{}",
    "garbage": f"{_CANARY}\r\n\r\n{_CANARY}",
}


@pytest.mark.parametrize("wrong", _NO_MESSAGES)
async def test_what_is_no_message_leaves_a_server_that_listens(
    tmp_path: Path, wrong: str
) -> None:
    """Whatever a header claims, and whatever stands between messages, the next is answered."""
    opened = _request(1, "initialize", {"capabilities": {}, "processId": None})
    between = _NO_MESSAGES[wrong].encode()
    rest = _request(2, "shutdown", None) + _notification("exit", None)
    run = await _raw([*FAKE_SERVER, str(tmp_path / "log")], opened + between + rest)
    assert [answer.get("id") for answer in _frames(run.stdout)] == [1, 2]
    assert run.returncode == 0
    assert "bytes that are no message" in run.stderr
    assert "Traceback" not in run.stderr
    assert _CANARY not in run.stderr


async def test_a_client_that_dies_in_the_middle_of_a_message(tmp_path: Path) -> None:
    """Half a header or half a body, and then nothing: the server ends, without a trace."""
    opened = _request(1, "initialize", {"capabilities": {}, "processId": None})
    for half in (b"Content-Le", _request(2, "shutdown", None)[:-9]):
        run = await _raw([*FAKE_SERVER, str(tmp_path / "log")], opened + half)
        assert any(answer.get("id") == 1 for answer in _frames(run.stdout))
        assert "Traceback" not in run.stderr


async def test_a_server_ends_with_the_process_of_its_client() -> None:
    """An input that nobody closes, as another process has it too, keeps no server alive."""
    editor = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*SERVER, stdin=pipe, stdout=pipe)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        params = {"capabilities": {}, "processId": editor.pid}
        process.stdin.write(_request(1, "initialize", params))
        async with asyncio.timeout(DEADLINE_S):
            assert b"Content-Length" in await process.stdout.readline()
            assert process.returncode is None
            editor.kill()
            assert await process.wait() == 1
    finally:
        editor.kill()
        editor.communicate()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_client_whose_process_cannot_be_seen_is_served(tmp_path: Path) -> None:
    """A number from another container means nothing here, and ends nothing."""
    messages = [
        _request(1, "initialize", {"capabilities": {}, "processId": 2**22 + 1}),
        _request(2, "shutdown", None),
        _notification("exit", None),
    ]
    run = await _raw([*FAKE_SERVER, str(tmp_path / "log")], b"".join(messages))
    assert [answer.get("id") for answer in _frames(run.stdout)] == [1, 2]
    assert run.returncode == 0


async def test_doctor_lists_all_servers() -> None:
    """Whoever wonders what takes the memory sees every server that runs, and its memory."""
    servers = [subprocess.Popen([*SERVER], stdin=subprocess.PIPE) for _ in range(4)]
    try:
        doctor = [*SERVER[:-1], "doctor", "--json"]
        run = await asyncio.create_subprocess_exec(*doctor, stdout=asyncio.subprocess.PIPE)
        async with asyncio.timeout(4 * DEADLINE_S):
            output, _ = await run.communicate()
        listed = {server["pid"]: server["memory"] for server in json.loads(output)["servers"]}
        assert all(listed[server.pid] > 0 for server in servers)
        assert run.pid not in listed
    finally:
        for server in servers:
            server.communicate(timeout=DEADLINE_S)


async def test_requests_after_shutdown_are_refused(tmp_path: Path) -> None:
    """Every request gets an answer, those that come too late too."""
    messages = [
        _request(1, "initialize", {"capabilities": {}, "processId": None, "rootUri": None}),
        _request(2, "shutdown", None),
        _request(3, "textDocument/inlineCompletion", _position(0, 0)),
        _request(4, "shutdown", None),
        _notification("exit", None),
    ]
    run = await _raw([*FAKE_SERVER, str(tmp_path / "log")], b"".join(messages))
    answers = {answer["id"]: answer for answer in _frames(run.stdout) if "id" in answer}
    assert "error" in answers[3]
    assert "error" in answers[4]


async def test_leaving_without_a_word_is_an_error() -> None:
    """The exit status tells whether the client said goodbye, as LSP asks."""
    assert (await _raw([*SERVER], b"")).returncode == 1
    polite = _request(1, "initialize", {"capabilities": {}, "processId": None})
    polite += _request(2, "shutdown", None) + _notification("exit", None)
    assert (await _raw([*SERVER], polite)).returncode == 0


async def test_a_port_that_is_taken_is_one_clear_line() -> None:
    """A server that cannot listen says which port, and does not trace back."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = await _raw([*SERVER, "--tcp", str(port)], b"")
    assert run.returncode == 1
    assert f"port {port} cannot be used" in run.stderr
    assert "Traceback" not in run.stderr


async def test_tcp_listens_on_loopback_and_serves() -> None:
    """With --tcp the server answers on 127.0.0.1, and is bound to nothing else."""
    import psutil

    process = await asyncio.create_subprocess_exec(*SERVER, "--tcp", "0")
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not (listening := psutil.Process(process.pid).net_connections("tcp")):
                await asyncio.sleep(0.01)
            (connection,) = listening
            assert connection.laddr.ip == "127.0.0.1"
            reader, writer = await asyncio.open_connection("127.0.0.1", connection.laddr.port)
            writer.write(_request(1, "initialize", {"capabilities": {}, "processId": None}))
            assert b"Content-Length" in await reader.readline()
            writer.write(_NO_MESSAGES["too long"].encode())
            writer.write(_request(2, "shutdown", None) + _notification("exit", None))
            assert b'"id": 2' in await reader.read()
            assert await process.wait() == 0
            writer.close()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_client_that_dies_ends_a_server_on_tcp() -> None:
    """A connection that breaks in the middle of a message is an end, without a trace."""
    command = [*SERVER, "--tcp", "0"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stderr=pipe)
    assert process.stderr is not None
    try:
        async with asyncio.timeout(DEADLINE_S):
            while b"listening on 127.0.0.1:" not in (line := await process.stderr.readline()):
                pass
            port = int(line.rpartition(b":")[2])
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(_request(1, "shutdown", None)[:-9])
            # Whoever dies resets the connection.
            linger = struct.pack("ii", 1, 0)
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.close()
            assert await process.wait() == 1
            assert b"Traceback" not in await process.stderr.read()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_standard_output_is_for_messages_only() -> None:
    """A server that is started and left says nothing on standard output."""
    run = subprocess.run([*SERVER], input=b"", capture_output=True, timeout=DEADLINE_S)
    assert run.stdout == b""


class _Run:
    def __init__(self, returncode: int | None, stdout: bytes, stderr: str) -> None:
        self.returncode, self.stdout, self.stderr = returncode, stdout, stderr


async def _raw(command: list[str], data: bytes) -> _Run:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(DEADLINE_S):
        stdout, stderr = await process.communicate(data)
    return _Run(process.returncode, stdout, stderr.decode())


def _position(line: int, character: int) -> dict[str, object]:
    return {
        "textDocument": {"uri": "file:///a.py"},
        "position": {"line": line, "character": character},
        "context": {"triggerKind": int(types.InlineCompletionTriggerKind.Invoked)},
    }


def _request(msg_id: int, method: str, params: object) -> bytes:
    return _frame(
        json.dumps({"jsonrpc": "2.0", "id": msg_id, "method": method, "params": params})
    )


def _notification(method: str, params: object) -> bytes:
    return _frame(json.dumps({"jsonrpc": "2.0", "method": method, "params": params}))


def _frame(body: str) -> bytes:
    return f"Content-Length: {len(body.encode())}\r\n\r\n{body}".encode()


def _frames(data: bytes) -> list[dict[str, object]]:
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split()[0])
        found.append(json.loads(data[:length]))
        data = data[length:]
    return found
