"""What each command of the command line does; heavy imports wait until they are needed.

Only here and in the LSP layer do errors become messages for a person.
"""

import argparse
import codecs
import difflib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from lsp_server.check_worker import CheckWorker
from lsp_server.completion import Candidate
from lsp_server.completion import complete as complete_snapshot
from lsp_server.errors import DocumentError, ModelNotFoundError, ServingError
from lsp_server.language_lines import is_read
from lsp_server.limited_run import run_limited
from lsp_server.model_commands import fetched, pulled
from lsp_server.models import EMBEDDED_MODEL, TINY, export_folder
from lsp_server.perplexity import prompt_perplexity
from lsp_server.plan import Rule, Snapshot
from lsp_server.positions import (
    Position,
    line_of,
    n_code_units,
    offset_at,
    position_at,
    split_lines,
)
from lsp_server.repair import kept_text, rank
from lsp_server.serving_model import Model
from lsp_server.settings import Settings
from lsp_server.staleness import WrittenPrograms
from lsp_server.steering import NameSource
from lsp_server.synthesis import WrittenTurn, write_turn
from lsp_server.synthesis import synthesize as synthesize_text
from lsp_server.terminal import print_json, progress_bar
from lsp_server.turns import Turn, read_turns
from lsp_server.verdict import UNCHECKED, CheckRequest, Cut, Verdict
from model_export.errors import DownloadError, NoRoomError

Command = Callable[[argparse.Namespace], int]

_CLOSING_S = 2.0
_SWITCH_S = 1e-3
"""So long the event loop waits, again and again, for a thread that computes."""
_CHECK_DEADLINE_S = 30.0
"""Nobody is typing here, so a cold jedi is waited for."""

_LANGUAGES = {
    ".py": "python",
    ".pyi": "python",
    ".c": "c",
    ".h": "c",
    ".cc": "cpp",
    ".cpp": "cpp",
    ".hpp": "cpp",
    ".go": "go",
    ".java": "java",
    ".js": "javascript",
    ".jsx": "javascriptreact",
    ".ts": "typescript",
    ".tsx": "typescriptreact",
}

_NAME_EXAMPLE = """\
class Shelf:
    \"\"\"Books in the order in which they were put there.\"\"\"

    def __init__(self):
        self.titles = []

    def put(self, title):
        self.titles.append(title)

    def newest(self):
        return self.titles[-1]


shelf = Shelf()
shelf.put("Emma")
shelf.put("Persuasion")
"""
_NAME_IS_DUE = Snapshot(f"{_NAME_EXAMPLE}print(shelf.)\n", len(f"{_NAME_EXAMPLE}print(shelf."))
_DEMO_MODEL = "smollm2-135m"


@dataclass(frozen=True)
class _Example:
    """A program to be written in turns, one of which is changed afterwards."""

    text: str
    prompt: str
    """Of the turn that is changed."""
    changed: str
    """What it becomes."""


# The embedded model completes lines; it solves no task.
_TINY_EXAMPLE = _Example(
    """\
class Folder:
    def __init__(self, path):
        # Store the path.

    def __str__(self):
        # Return the path.


print(Folder("home"))
""",
    "Store the path.",
    "Store the path of the folder.",
)
_EXAMPLE = _Example(
    """\
words = ["tree", "sun", "river", "sea", "mountain"]

# Sort the words by length.

# Print the first of the sorted words.

# Write a function "mean" that returns the mean of a list.

# Make a list "lengths" of the lengths of the sorted words.

# Print the lengths.
""",
    "Sort the words by length.",
    "Sort the words by length, the longest first.",
)


def serve(options: argparse.Namespace) -> int:
    """Run the language server until its client leaves."""
    from lsp_server.acceptance import Statistics, statistics_file
    from lsp_server.local_models import LocalModels
    from lsp_server.server import create_server
    from lsp_server.server_log import log_to_stderr

    log_to_stderr()
    sys.setswitchinterval(_SWITCH_S)
    checker = CheckWorker()
    defaults = Settings(model=options.model, device=options.device)
    statistics = Statistics(statistics_file())
    server = create_server(LocalModels(), checker, defaults, statistics)

    def leave() -> None:
        server.host.close()
        server.host.wait(_CLOSING_S)
        checker.close()
        statistics.write()

    def leave_at_once() -> None:
        leave()
        # The thread that reads an input which nobody closes would be waited for.
        os._exit(1)

    server.on_client_gone = leave_at_once
    try:
        if options.tcp is None:
            server.start_io()
        else:
            server.start_tcp("127.0.0.1", options.tcp)
    except OSError as error:
        raise ServingError(f"port {options.tcp} cannot be used: {error.strerror}") from error
    finally:
        leave()
    # As LSP asks: a client that leaves without a word is an error.
    status = 0 if server.was_shut_down else 1
    if any(thread.daemon for thread in threading.enumerate()):
        # What still loads or hangs in native code would abort the interpreter's end.
        os._exit(status)
    return status


def export(options: argparse.Namespace) -> int:
    """Export a checkpoint, with a progress bar on standard error."""
    from model_export import export as export_checkpoint

    output = Path(options.output or export_folder(options.checkpoint, options.device))
    source = fetched(options.checkpoint)
    with progress_bar("exporting") as progress:
        manifest = export_checkpoint(
            source,
            output,
            precision=options.precision,
            device=options.device,
            progress=progress,
        )
    if options.json:
        print_json(manifest.to_json())
    else:
        size = sum(record.size for record in manifest.files.values())
        print(f"{output}: {manifest.precision}, {size / 1e6:.0f} MB")
    return 0


def complete(options: argparse.Namespace) -> int:
    """Print one completion, as an editor gets it when it asks explicitly."""
    started = time.perf_counter()
    path = Path(options.file)
    text = _read_text(path)
    offset = offset_at(text, Position(options.line, options.character))
    snapshot = Snapshot(text, offset, _language_of(path))
    with _analysing() as worker:
        check, names = _check_with(worker), None
        if not options.no_steering:
            names = _names_from(worker, path)
        model = _open(options.model)
        asked = time.perf_counter()
        completion = complete_snapshot(
            model,
            snapshot,
            max_new_tokens=Settings().max_new_tokens,
            n_candidates=options.candidates,
            names=names,
        )
        check_started = time.perf_counter()
        # The check knows Python only.
        is_python = snapshot.language_id == "python"
        pairs = [
            (c, check(_request(path, snapshot, c)) if is_python else UNCHECKED)
            for c in completion.candidates
        ]
        finished = time.perf_counter()
    pairs.sort(key=lambda pair: rank(pair[1], pair[0].mean_log_probability))
    if not options.json:
        for candidate, verdict in pairs:
            print(kept_text(candidate.insert_text, verdict))
            _print_verdict(verdict)
        if not pairs:
            print(f"no completion: {completion.silence}", file=sys.stderr)
        return 0
    start, _ = line_of(text, offset)
    cursor = {"line": options.line, "character": n_code_units(text[start:offset])}
    print_json(
        {
            "model": model.name,
            "items": [
                {
                    "insertText": kept_text(candidate.insert_text, verdict),
                    "range": {"start": cursor, "end": cursor},
                    "check": _verdict_json(verdict),
                }
                for candidate, verdict in pairs
            ],
            "prompt_perplexity": prompt_perplexity(model, snapshot),
            "timing": {
                "prompt_tokens": completion.prompt_tokens,
                "reused_tokens": completion.reused_tokens,
                "generated_tokens": completion.generated_tokens,
                "first_token_ms": round(completion.first_token_ms, 2),
                "check_ms": round(1e3 * (finished - check_started), 2),
                "total_ms": round(1e3 * (finished - asked), 2),
                "load_ms": round(1e3 * (asked - started), 2),
            },
        }
    )
    return 0


def synthesize(options: argparse.Namespace) -> int:
    """Write the programs of a file's turns; print a diff, or change the file.

    A program that the check flags is shown and not written.
    """
    path = Path(options.file)
    text = _read_text(path)
    language_id = _language_of(path)
    if not is_read(language_id):
        raise DocumentError(
            f"turns are not read from {path}; only from files that end in "
            f"{', '.join(_LANGUAGES)}"
        )
    with _analysing() as worker:
        model = _open(options.model)
        turns = []
        for turn in synthesize_text(
            model,
            text,
            max_new_tokens=Settings().max_new_tokens,
            check=_check_with(worker),
            names=_names_from(worker, path),
            language_id=language_id,
            path=str(path.absolute()),
            stale_from=options.stale_from,
        ):
            turns.append(turn)
            if not options.json:
                _print_turn(turn, "#" if language_id == "python" else "//")
    result = turns[-1].text if turns else text
    if options.write and result != text:
        _replace_text(path, result)
    if options.json:
        print_json(
            {
                "model": model.name,
                "turns": [_turn_json(turn) for turn in turns],
                "text": result,
            }
        )
    elif not options.write:
        sys.stdout.writelines(_diff(path, text, result))
    return 0


def demo(options: argparse.Namespace) -> int:
    """Write a small program in several turns, change one of them, and write what is stale.

    Each turn is shown with its check, and the program is run before and after the change.
    At last a name is asked for with and without what is known of names.
    """
    with _analysing() as worker:
        check = _check_with(worker)
        model = _open_or_pull(options.model) if options.model else _demo_model()
        print(f"model: {model.name}\n")
        example = _TINY_EXAMPLE if model.name == EMBEDDED_MODEL else _EXAMPLE
        text, limit = example.text, Settings().max_new_tokens
        programs = WrittenPrograms()
        for written in synthesize_text(model, text, max_new_tokens=limit, check=check):
            text = written.text
            _show_and_remember(written, programs)
        _print_run(text)

        text = text.replace(f"# {example.prompt}\n", f"# {example.changed}\n", 1)
        turn: Turn | None = next(t for t in read_turns(text) if t.prompt == example.changed)
        print("One comment is changed, and its program written anew:\n")
        n_stale = -1
        while turn is not None:
            written = write_turn(model, text, turn, max_new_tokens=limit, check=check)
            text = written.text
            _show_and_remember(written, programs)
            n_stale += 1
            stale, _ = programs.stale(text)
            turn = next((later for later in stale if later.start > turn.start), None)
            if turn is not None:
                line = position_at(text, turn.start).line + 1
                print(f"The program of line {line} is stale: it uses what has changed above.")
        steered, plain = (
            complete_snapshot(model, _NAME_IS_DUE, max_new_tokens=limit, names=names)
            for names in (_names_from(worker, None), None)
        )
    if not n_stale:
        print("No later program is stale: none uses what has changed.\n")
    print(f"The finished program:\n\n{text}")
    _print_run(text)
    print(_NAME_EXAMPLE)
    for completion, meaning in ((plain, "alone"), (steered, "with names that exist only")):
        texts = [candidate.insert_text for candidate in completion.candidates]
        print(f"    print(shelf.{texts[0] if texts else ''})  # {model.name}, {meaning}")
    return 0


def _show_and_remember(written: WrittenTurn, programs: WrittenPrograms) -> None:
    _print_turn(written)
    if written.stands:
        start = offset_at(written.text, Position(written.line, 0))
        programs.remember(written.text, start)


def _print_run(program: str) -> None:
    run = run_limited(program)
    print("It prints:")
    sys.stdout.writelines(f"    {line}\n" for line in run.output.splitlines())
    if run.failure:
        print(f"    [{run.failure}]")
    print()


def _demo_model() -> Model:
    """Return a model that knows something, or else the embedded one, with a word about it."""
    try:
        return _open_or_pull(_DEMO_MODEL)
    except (DownloadError, NoRoomError) as error:
        print(f"{error}\nThe embedded model writes instead; it knows very little.")
        return _open(TINY)


def _open_or_pull(name: str) -> Model:
    try:
        return _open(name)
    except ModelNotFoundError:
        print(f"fetching {name}, for this demo and later use", flush=True)
        pulled(name)
        return _open(name)


def doctor(options: argparse.Namespace) -> int:
    """Say what works on this machine, and what does not and why."""
    from lsp_server.doctor import examine

    with _analysing() as worker:
        report = examine(lambda: _open(options.model), _check_with(worker))
    if options.json:
        print_json(report.to_json())
    else:
        for name, value in report.lines():
            print(f"{name:<22} {value}")
    return 0 if report.is_well else 1


def bench(options: argparse.Namespace) -> int:
    """Run one of the project's benchmarks of speed, which only a clone has."""
    clone = Path(__file__).parents[1]
    if not (clone / "benchmarks" / f"{options.benchmark}.py").is_file():
        raise ServingError(
            "the benchmarks are not part of the package; clone the project, run `make test` "
            "there, and then .venv/bin/codegen-lsp bench"
        )
    sys.path.insert(0, str(clone))
    try:
        module = import_module(f"benchmarks.{options.benchmark}")
    except ImportError as error:
        raise ServingError(
            f"{error}; install what the benchmarks need with "
            "`.venv/bin/pip install -e '.[dev,bench]'`"
        ) from error
    status: int = module.run(options)
    return status


def evaluate(options: argparse.Namespace) -> int:
    """Measure the quality of what is written, with libraries that nothing else needs."""
    try:
        for library in ("matplotlib", "mypy"):
            import_module(library)
    except ImportError as error:
        raise ServingError(
            f"{error}; install what evaluations need with "
            "`python -m pip install 'codegen-lsp[eval]'`"
        ) from error
    module = import_module(f"model_eval.{options.module}")
    status: int = getattr(module, options.evaluation)(options)
    return status


def _open(name: str | None) -> Model:
    from lsp_server.loading import load_model

    with progress_bar("exporting") as progress:
        return load_model(Settings(model=name), progress)


@contextmanager
def _analysing() -> Iterator[CheckWorker]:
    """Yield a worker, which starts while the model loads."""
    worker = CheckWorker()
    worker.warm_up()
    try:
        yield worker
    finally:
        worker.close()


def _check_with(worker: CheckWorker) -> Callable[[CheckRequest], Verdict]:
    return lambda request: _awaited(worker.submit(request))


def _names_from(worker: CheckWorker, path: Path | None) -> NameSource:
    """Return who knows names; nobody types meanwhile, so a cold analyser is waited for."""
    file = path and path.absolute()
    return NameSource(
        worker.known_names,
        path=str(file) if file else None,
        project=str(file.parent) if file else None,
        deadline_s=_CHECK_DEADLINE_S,
    )


def _awaited(future: "Future[Verdict]") -> Verdict:
    try:
        return future.result(_CHECK_DEADLINE_S)
    except TimeoutError:
        return UNCHECKED


def _request(path: Path, snapshot: Snapshot, candidate: Candidate) -> CheckRequest:
    absolute = path.absolute()
    return CheckRequest(
        snapshot.text,
        snapshot.offset,
        candidate.insert_text,
        path=str(absolute),
        project=str(absolute.parent),
        cut=Cut.OUTER if candidate.rule is Rule.TURN else Cut.ANYWHERE,
    )


def _language_of(path: Path) -> str:
    return _LANGUAGES.get(path.suffix, "plaintext")


def _diff(path: Path, old: str, new: str) -> Iterator[str]:
    """Yield the lines of a unified diff as ``diff`` and ``git`` write it."""
    old_lines, new_lines = ([*filter(None, split_lines(text))] for text in (old, new))
    for line in difflib.unified_diff(old_lines, new_lines, str(path), str(path)):
        yield line
        if not line.endswith(("\n", "\r")):
            yield "\n\\ No newline at end of file\n"


def _read_text(path: Path) -> str:
    try:
        # Line ends stay as they are, because offsets count them; a byte-order mark goes,
        # because editors do not count it.
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DocumentError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DocumentError(
            f"{path} is not UTF-8 (byte {error.start}); convert it first"
        ) from error


def _replace_text(path: Path, text: str) -> None:
    """Change a file at once, so that a crash leaves the old one or the new one."""
    target = path.resolve()
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        had_mark = target.read_bytes().startswith(codecs.BOM_UTF8)
        partial.write_bytes(text.encode("utf-8-sig" if had_mark else "utf-8"))
        partial.chmod(target.stat().st_mode)
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DocumentError(f"{path} cannot be written: {error.strerror}") from error


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "verdict": verdict.verdict,
        "problems": [asdict(problem) for problem in verdict.problems],
    }


def _turn_json(turn: WrittenTurn) -> dict[str, Any]:
    return {
        "line": turn.line,
        "prompt": turn.prompt,
        "program": turn.program,
        "check": _verdict_json(turn.verdict),
        "total_ms": round(turn.total_ms, 2),
    }


def _print_turn(turn: WrittenTurn, mark: str = "#") -> None:
    for line in turn.prompt.split("\n"):
        print(f"{mark} {line}")
    print(turn.program or "(nothing)")
    not_written = "; not written" if turn.program and not turn.stands else ""
    print(f"    [{turn.total_ms:.0f} ms, check: {_describe(turn.verdict)}{not_written}]\n")


def _print_verdict(verdict: Verdict) -> None:
    print(f"    [check: {_describe(verdict)}]", file=sys.stderr)


def _describe(verdict: Verdict) -> str:
    problems = "; ".join(problem.message for problem in verdict.problems)
    return f"{verdict.verdict}: {problems}" if problems else str(verdict.verdict)
