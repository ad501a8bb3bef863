"""Writes turns where the editor asks for it: commands, code actions and the edits they make.

Each program is a versioned edit of its own, built upon the text that the editor then has.
An edit by the person inside or above the turn that is being written ends the run.
"""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Protocol

from lsprotocol import types
from pygls.exceptions import JsonRpcInvalidParams
from pygls.lsp.server import LanguageServer

from lsp_server.answers import Answer
from lsp_server.documents import Document
from lsp_server.model_host import ModelHost
from lsp_server.notebooks import CellEdit, Notebook
from lsp_server.pending_checks import Checker
from lsp_server.plan import Rule, Snapshot
from lsp_server.positions import Encoding, position_at
from lsp_server.protocol import CompletionProtocol
from lsp_server.repair import kept_text
from lsp_server.settings import Settings
from lsp_server.staleness import WrittenPrograms
from lsp_server.synthesis import Opening, open_turn, programs_of
from lsp_server.turns import Turn, read_turns
from lsp_server.verdict import UNCHECKED, CheckRequest, Cut, Verdict, VerdictKind

WRITE_TURN = "codegen.writeTurn"
WRITE_ALL_TURNS = "codegen.writeAllTurns"
REWRITE_TURN = "codegen.rewriteTurn"
REWRITE_STALE = "codegen.rewriteStale"

TURN_MARK = "#turn"
"""Ends the URI of what is written for a document beside its completions."""
EDIT_DEADLINE_S = 10.0
"""How long a client may take to make an edit, and to tell of it."""
_CONFIRMATION_DEADLINE_S = 300.0
"""A person reads what is to be rewritten before it is."""
_CHECK_DEADLINE_S = 10.0
_N_CANDIDATES = 4
_ANNOTATION = "codegen"

log = logging.getLogger(__name__)


class TurnKeeper(Protocol):
    """What turn actions need of ``lsp_server.server.CompletionServer``."""

    documents: dict[str, Document]
    notebooks: dict[str, Notebook]
    host: ModelHost
    checker: Checker
    settings: Settings
    protocol: CompletionProtocol

    @property
    def encoding(self) -> Encoding:
        """The unit in which the client counts characters."""

    def notebook_of(self, uri: str) -> Notebook | None:
        """Return the notebook that a document is a cell of."""

    def show(self, kind: types.MessageType, message: str) -> None:
        """Show one line to the person at the editor."""

    def wake(self) -> None:
        """Load the model again where it was let go."""

    def check_request(self, snapshot: Snapshot, insert_text: str) -> CheckRequest:
        """Return what is to be checked of a program."""


class _EndedError(Exception):
    """Ends a run; the message is for the person."""


class _Run:
    """One command on one document."""

    def __init__(self, uri: str, programs: WrittenPrograms) -> None:
        self.uri = uri
        self.programs = programs
        self.changed = asyncio.Event()
        self.n_begun = 0
        self.n_written = 0
        self.notes: list[str] = []
        self.show_progress: Callable[[str], None] = lambda _message: None

    def begin_next(self, n_left: int) -> None:
        """Show how far the run is; so many turns are to be written yet."""
        self.n_begun += 1
        self.show_progress(f"{self.n_begun} of {self.n_begun + n_left - 1}")


Action = Callable[[_Run, int], Awaitable[None]]


class TurnActions:
    """Writes programs, and remembers by hashes what it wrote into each open document."""

    def __init__(self, server: LanguageServer, keeper: TurnKeeper) -> None:
        """Remember nothing."""
        self._server = server
        self._keeper = keeper
        self._programs: dict[str, WrittenPrograms] = {}
        self._shown: dict[str, list[Answer]] = {}
        """The programs that were shown last in a document, until it is edited."""
        self._remembering: set[asyncio.Future[None]] = set()
        self._runs: dict[str, _Run] = {}
        self._n_runs = 0

    def take_change(self, uri: str) -> None:
        """Look at a document that was edited or closed."""
        shown = self._shown.pop(uri, [])
        if uri not in self._keeper.documents and uri not in self._keeper.notebooks:
            self._programs.pop(uri, None)
        elif shown and (document := self._text(uri)):
            for answer in shown:
                if answer.accepted.text == document.text:
                    self._remember_accepted(answer)
        if run := self._runs.get(uri):
            run.changed.set()

    def take_shown(self, answers: Sequence[Answer]) -> None:
        """Look at suggestions: a program is ours if all of it is accepted in one edit."""
        programs = [answer for answer in answers if answer.candidate.rule is Rule.TURN]
        if programs:
            self._shown[programs[0].snapshot.uri] = programs

    def _remember_accepted(self, answer: Answer) -> None:
        then, now = answer.snapshot, answer.accepted
        programs = self._programs.setdefault(then.uri, WrittenPrograms())
        # Reading all turns of a long file takes longer than the event loop may wait.
        remembering = asyncio.ensure_future(
            asyncio.to_thread(
                programs.accept, then.text, then.offset, now.text, then.language_id
            )
        )
        self._remembering.add(remembering)
        remembering.add_done_callback(self._remembering.discard)

    def offered(self, uri: str, line: int) -> list[types.CodeAction]:
        """Return the actions that apply at a line."""
        owner, line_there = self._place(uri, line)
        document = self._text(owner)
        if document is None:
            return []
        turns = self._read_turns(document)
        start, here = _at(document, turns, line_there)
        rewrite = types.CodeActionKind.RefactorRewrite
        offers = []
        if here is not None and not here.has_program:
            offers.append(("Write this turn", WRITE_TURN, rewrite))
        if any(turn.start >= start and turn.wants_program for turn in turns):
            offers.append(("Write all turns below", WRITE_ALL_TURNS, rewrite))
        if here is not None and here.has_program:
            offers.append(("Write this turn anew", REWRITE_TURN, rewrite))
        if self.stale(document):
            offers.append(("Write the stale turns", REWRITE_STALE, types.CodeActionKind.Source))
        return [
            types.CodeAction(
                title, kind, command=types.Command(title, command, arguments=[uri, line])
            )
            for title, command, kind in offers
        ]

    def stale(self, document: Document) -> list[Turn]:
        """Return the turns whose programs we wrote and that are stale."""
        programs = self._programs.get(document.uri)
        return programs.stale(document.text, document.language_id)[0] if programs else []

    async def write_turn(self, run: _Run, line: int) -> None:
        """Write the program of the turn at a line, which has none."""
        document = self._document(run)
        _, turn = _at(document, await self._turns(document), line)
        if turn is None:
            raise _EndedError("there is no turn at this line")
        if turn.has_program:
            raise _EndedError("this turn has a program; write it anew instead")
        await self._write(run, document, turn)

    async def write_all_turns(self, run: _Run, line: int) -> None:
        """Write the programs of the turns from a line on, each after the one before it."""
        document = self._document(run)
        passed, _ = _at(document, await self._turns(document), line)
        while True:
            document = self._document(run)
            turns = await self._turns(document)
            left = [turn for turn in turns if turn.start >= passed and turn.wants_program]
            if not left:
                if not run.n_begun:
                    run.notes.append("every turn from here on has its program")
                return
            run.begin_next(len(left))
            await self._write(run, document, left[0])
            passed = left[0].start + 1

    async def rewrite_turn(self, run: _Run, line: int) -> None:
        """Write another program for the turn at a line."""
        document = self._document(run)
        _, turn = _at(document, await self._turns(document), line)
        if turn is None or not turn.has_program:
            raise _EndedError("there is no program to write anew at this line")
        await self._write(run, document, turn, other=True)

    async def rewrite_stale(self, run: _Run, _line: int) -> None:
        """Write the stale programs anew, each after the one before it."""
        document = self._document(run)
        _, others = await self._stale_of(run, document)
        passed = -1
        while True:
            document = self._document(run)
            stale, _ = await self._stale_of(run, document)
            left = [turn for turn in stale if turn.start > passed]
            if not left:
                break
            run.begin_next(len(left))
            await self._write(run, document, left[0])
            passed = left[0].start
        if not run.n_begun:
            run.notes.append("no program that was written here is stale")
        if others:
            lines = ", ".join(self._line_of(document, other) for other in others)
            run.notes.append(f"not written by us, or edited, and so left alone: line {lines}")

    async def _stale_of(self, run: _Run, document: Document) -> tuple[list[Turn], list[Turn]]:
        read_stale = run.programs.stale
        return await asyncio.to_thread(read_stale, document.text, document.language_id)

    async def run(self, action: Action, uri: str, line: int) -> None:
        """Run an action to its end, and show in one line what there is to tell."""
        uri, line = self._place(uri, line)
        if uri in self._runs:
            self._tell("turns of this file are being written already")
            return
        run = _Run(uri, self._programs.setdefault(uri, WrittenPrograms()))
        self._runs[uri] = run
        try:
            reason = await self._ended(action, run, line)
        finally:
            del self._runs[uri]
            self.take_change(uri)
        if reason:
            n_written = f" ({run.n_written} written)" if run.n_written else ""
            run.notes.insert(0, f"stopped, because {reason}{n_written}")
        if run.notes:
            self._tell("; ".join(run.notes))

    async def _ended(self, action: Action, run: _Run, line: int) -> str:
        """Return why an action ended early, nothing where it did not."""
        self._n_runs += 1
        token = f"codegen-lsp/turns/{self._n_runs}"
        progress = self._keeper.protocol.progress
        is_shown = await self._keeper.protocol.can_show_progress(token)
        work = asyncio.ensure_future(action(run, line))
        if is_shown:
            begin = types.WorkDoneProgressBegin("Writing turns", cancellable=True)
            progress.begin(token, begin)
            run.show_progress = lambda message: progress.report(
                token, types.WorkDoneProgressReport(message=message, cancellable=True)
            )
            # The client's cancellation comes to the event loop, where this belongs.
            progress.tokens[token].add_done_callback(lambda _: work.cancel())
        try:
            await asyncio.wait({work})
            return "it was cancelled" if work.cancelled() else _reason(work.exception())
        finally:
            work.cancel()
            if is_shown:
                progress.end(token, types.WorkDoneProgressEnd())
                progress.tokens.pop(token, None)

    async def _write(
        self, run: _Run, document: Document, turn: Turn, *, other: bool = False
    ) -> None:
        """Write one program; where it is flagged or there is none, note it and go on."""
        line = self._line_of(document, turn)
        old = document.text[turn.prompt_end : turn.end].strip()
        opening = _opened(document, turn)
        snapshot = Snapshot(
            opening.text,
            opening.offset,
            document.language_id,
            # So that neither an edit below nor a request for a completion ends it.
            document.uri + TURN_MARK,
        )
        programs = await self._programs_for(run, document, turn, snapshot, other=other)
        if other:
            programs = _after(programs, old)
        if not programs:
            run.notes.append(f"the model has no {'other ' * other}program for line {line}")
            return
        verdict = await self._check(snapshot, document, programs[0])
        program = kept_text(programs[0], verdict)
        if verdict.verdict is VerdictKind.FLAGGED:
            faults = "; ".join(problem.message for problem in verdict.problems)
            run.notes.append(f"line {line} is not written, the check found: {faults}")
            return
        await self._apply(run, document, turn, program)

    async def _programs_for(
        self, run: _Run, document: Document, turn: Turn, snapshot: Snapshot, *, other: bool
    ) -> list[str]:
        keeper = self._keeper
        keeper.wake()
        asked = asyncio.ensure_future(
            keeper.host.complete(
                snapshot,
                # The prompt is the whole history, however long it takes to read.
                replace(keeper.settings, latency_budget_ms=sys.maxsize),
                asyncio.Event(),
                n_candidates=_N_CANDIDATES if other else 1,
                buffers=(),
            )
        )
        changed = asyncio.ensure_future(run.changed.wait())
        try:
            while not asked.done():
                await asyncio.wait({asked, changed}, return_when=asyncio.FIRST_COMPLETED)
                if changed.done():
                    run.changed.clear()
                    changed = asyncio.ensure_future(run.changed.wait())
                    await self._same_turn(run, document, turn)
            completion = asked.result()
        finally:
            asked.cancel()
            changed.cancel()
        if keeper.host.model is None:
            raise _EndedError("no model is loaded")
        return programs_of(completion)

    async def _check(self, snapshot: Snapshot, document: Document, program: str) -> Verdict:
        if not self._keeper.settings.check_deadline_ms or document.language_id != "python":
            return UNCHECKED
        request = self._keeper.check_request(replace(snapshot, uri=document.uri), program)
        checked = asyncio.wrap_future(
            self._keeper.checker.submit(replace(request, cut=Cut.OUTER))
        )
        try:
            verdict: Verdict = await asyncio.wait_for(checked, _CHECK_DEADLINE_S)
        except TimeoutError:
            return UNCHECKED
        return verdict

    async def _apply(self, run: _Run, then: Document, turn: Turn, program: str) -> None:
        """Let the client make the edit, and wait until its text is here."""
        while True:
            document, now = await self._same_turn(run, then, turn)
            edit = self._edit(document, now, program)
            deadline_s = _CONFIRMATION_DEADLINE_S if now.has_program else EDIT_DEADLINE_S
            asked = self._server.workspace_apply_edit_async(
                types.ApplyWorkspaceEditParams(edit, label=_label(now))
            )
            try:
                answer = await asyncio.wait_for(asked, deadline_s)
            except TimeoutError:
                raise _EndedError("the editor did not answer") from None
            if answer.applied:
                break
            if self._document(run).version == document.version:
                raise _EndedError("the editor refused the edit")
        opening = _opened(document, now)
        expected = opening.written(program)[: opening.offset + len(program)]
        try:
            async with asyncio.timeout(EDIT_DEADLINE_S):
                while self._document(run).version == document.version:
                    run.changed.clear()
                    await run.changed.wait()
        except TimeoutError:
            raise _EndedError("the editor did not send the text after the edit") from None
        text = self._document(run).text
        if not text.startswith(expected):
            raise _EndedError("the text was edited inside or above the turn")
        run.n_written += 1
        run.programs.remember(text, turn.start, document.language_id)

    def _edit(self, document: Document, turn: Turn, program: str) -> types.WorkspaceEdit:
        change_to = self._change(document, turn, program)
        target, new_text = change_to.document, change_to.new_text
        start, end = (
            position_at(target.text, offset, self._keeper.encoding)
            for offset in (change_to.start, change_to.end)
        )
        where = types.Range(types.Position(*start), types.Position(*end))
        annotations = None
        plain = types.TextEdit(where, new_text)
        change: types.TextEdit | types.AnnotatedTextEdit = plain
        workspace = self._server.client_capabilities.workspace
        can = workspace.workspace_edit if workspace else None
        if not (can and (can.document_changes or can.resource_operations)):
            # As the specification has it: such a client knows no versions.
            return types.WorkspaceEdit(changes={target.uri: [plain]})
        if turn.has_program and can.change_annotation_support:
            annotations = {
                _ANNOTATION: types.ChangeAnnotation(_label(turn), needs_confirmation=True)
            }
            change = types.AnnotatedTextEdit(_ANNOTATION, where, new_text)
        identifier = types.OptionalVersionedTextDocumentIdentifier(target.uri, target.version)
        return types.WorkspaceEdit(
            document_changes=[types.TextDocumentEdit(identifier, [change])],
            change_annotations=annotations,
        )

    async def _same_turn(self, run: _Run, then: Document, turn: Turn) -> tuple[Document, Turn]:
        """Return the newest document with the turn, if that and what is above are as then."""
        while True:
            document = self._document(run)
            turns = await self._turns(document)
            if self._document(run).version == document.version:
                break
        now = next((t for t in turns if t.start == turn.start), None)
        is_same = now is not None and (
            document.text[: now.prompt_end] == then.text[: turn.prompt_end]
            and document.text[now.prompt_end : now.end].strip()
            == then.text[turn.prompt_end : turn.end].strip()
        )
        if now is None or not is_same:
            raise _EndedError("the text was edited inside or above the turn")
        return document, now

    def _change(self, document: Document, turn: Turn, program: str) -> CellEdit:
        """Return where a program goes, and what goes there with it."""
        notebook = self._keeper.notebooks.get(document.uri)
        if notebook is None:
            opening = _opened(document, turn)
            new_text = opening.replacement(program)
            return CellEdit(document, opening.start, opening.end, new_text)
        edit = notebook.joined().edit(turn.prompt_end, turn.end, program)
        if edit is None:
            raise _EndedError("this turn's program has no code cell of its own")
        return edit

    def _place(self, uri: str, line: int) -> tuple[str, int]:
        """Return the whole that a document is part of, and the line there."""
        notebook = self._keeper.notebook_of(uri)
        if notebook is None:
            return uri, line
        return notebook.uri, notebook.joined().line(uri, line)

    def _text(self, uri: str) -> Document | None:
        """Return a document, or the cells of a notebook as one."""
        notebook = self._keeper.notebooks.get(uri)
        if notebook is None:
            return self._keeper.documents.get(uri)
        return Document.opened(uri, "python", notebook.n_edits, notebook.joined().text)

    def _line_of(self, document: Document, turn: Turn) -> str:
        notebook = self._keeper.notebooks.get(document.uri)
        if notebook is None:
            return str(position_at(document.text, turn.start).line + 1)
        cell, line = notebook.joined().cell_line(turn.start)
        return f"{line} of cell {cell}"

    def _document(self, run: _Run) -> Document:
        document = self._text(run.uri)
        if document is None:
            raise _EndedError("the document is not open")
        return document

    async def _turns(self, document: Document) -> tuple[Turn, ...]:
        """Return the turns of a document, read in a thread: a long text takes long."""
        return await asyncio.to_thread(self._read_turns, document)

    def _read_turns(self, document: Document) -> tuple[Turn, ...]:
        """Return the turns of a document; of a notebook those that can be written."""
        turns = read_turns(document.text, document.language_id)
        notebook = self._keeper.notebooks.get(document.uri)
        if notebook is None:
            return turns
        joined = notebook.joined()
        waiting = map(joined.waiting, turns)
        return tuple(t for t in waiting if joined.edit(t.prompt_end, t.end, ""))

    def _tell(self, message: str) -> None:
        self._keeper.show(types.MessageType.Info, message)


def add_turn_actions(server: LanguageServer, keeper: TurnKeeper) -> TurnActions:
    """Add the commands and the code actions; returns who is to be told of changes."""
    actions = TurnActions(server, keeper)
    works: dict[str, Action] = {
        WRITE_TURN: actions.write_turn,
        WRITE_ALL_TURNS: actions.write_all_turns,
        REWRITE_TURN: actions.rewrite_turn,
        REWRITE_STALE: actions.rewrite_stale,
    }

    def add(name: str, action: Action) -> None:
        @server.command(name)
        async def execute(ls: LanguageServer, *arguments: object) -> None:
            match arguments:
                case [str(uri), int(line)] if line >= 0:
                    await actions.run(action, uri, line)
                case _:
                    takes = f"{name} takes the URI of a document and the number of a line"
                    raise JsonRpcInvalidParams(takes)

    for name, action in works.items():
        add(name, action)

    kinds = [types.CodeActionKind.RefactorRewrite, types.CodeActionKind.Source]

    @server.feature(types.TEXT_DOCUMENT_CODE_ACTION, types.CodeActionOptions(kinds))
    async def code_action(params: types.CodeActionParams) -> list[types.CodeAction]:
        # A long file takes long to read, and this is asked wherever the cursor goes.
        uri, line = params.text_document.uri, params.range.start.line
        offered = await asyncio.to_thread(actions.offered, uri, line)
        only = params.context.only
        if only is None:
            return offered
        return [a for a in offered if any(_is_of(a.kind, kind) for kind in only)]

    return actions


def _is_of(kind: types.CodeActionKind | str | None, wanted: types.CodeActionKind | str) -> bool:
    name, prefix = (types.CodeActionKind(k).value for k in (kind, wanted))
    return f"{name}.".startswith(f"{prefix}.")


def _at(document: Document, turns: tuple[Turn, ...], line: int) -> tuple[int, Turn | None]:
    """Return where the turn at a line starts, else the line, and the innermost such turn."""
    start, end = sum(map(len, document.lines[:line])), len(document.text)
    inside = [t for t in turns if t.start <= start and (start < t.end or t.end == end)]
    return (inside[-1].start, inside[-1]) if inside else (start, None)


def _opened(document: Document, turn: Turn) -> Opening:
    return open_turn(document.text, turn, is_python=document.language_id == "python")


def _after(programs: list[str], old: str) -> list[str]:
    """Return the programs that are not the old one, those after it first."""
    stripped = [program.strip() for program in programs]
    if old not in stripped:
        return programs
    place = stripped.index(old)
    return programs[place + 1 :] + programs[:place]


def _label(turn: Turn) -> str:
    return "Write this turn anew" if turn.has_program else "Write this turn"


def _reason(error: BaseException | None) -> str:
    if error is None or isinstance(error, _EndedError):
        return str(error or "")
    log.error("turns were not written: %s", type(error).__name__)
    return f"it failed ({type(error).__name__}); see the log"
