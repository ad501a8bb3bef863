"""How answers are shown: LSP's items, with a command that tells when one was accepted.

It knows no documents, no settings and no model.
"""

import re
import time
from dataclasses import dataclass

from lsprotocol import types

from lsp_server.acceptance import Statistics
from lsp_server.answering import Request, name_of
from lsp_server.answers import Answer
from lsp_server.plan import Snapshot
from lsp_server.positions import Encoding, line_of, n_code_units

ACCEPTED = "codegen.accepted"
"""The command that tells of an acceptance."""
_WORD = re.compile(r"\w*$")
_N_SHOWN = 64
"""So many of the newest completions may be told to be accepted."""


@dataclass(frozen=True)
class ItemRequest(Request):
    """What was asked, and where the answer is to be shown."""

    line: int
    selected: types.SelectedCompletionInfo | None = None
    """The item of the menu that the answer goes on with."""


class Shown:
    """Counts what is shown and what of it is accepted; without statistics nothing."""

    def __init__(self, statistics: Statistics | None) -> None:
        """Take where it is counted."""
        self._statistics = statistics
        self._rules: dict[int, str] = {}
        """Of what was shown, by the number that tells of its acceptance."""
        self._number = 0
        self._last: Snapshot | None = None
        """The text that accepting the newest gives."""

    def command(self, answer: Answer, request: ItemRequest) -> types.Command | None:
        """Count an answer as shown; returns what the client runs when it is accepted."""
        if self._statistics is None:
            return None
        # Whoever types along a suggestion is shown the same one.
        if answer.accepted != self._last:
            self._last = answer.accepted
            rule = name_of(answer.candidate.rule)
            self._statistics.count_shown(rule, 1e3 * (time.monotonic() - request.started))
            self._number += 1
            self._rules[self._number] = rule
            self._rules.pop(self._number - _N_SHOWN, None)
        return types.Command("Completion accepted", ACCEPTED, arguments=[self._number])

    def count_accepted(self, number: object = None) -> None:
        """Count a completion that the client says was accepted."""
        rule = self._rules.pop(number, None) if isinstance(number, int) else None
        if rule is not None and self._statistics is not None:
            self._statistics.count_accepted(rule)


def inline_item(
    answer: Answer, request: ItemRequest, encoding: Encoding, command: types.Command | None
) -> types.InlineCompletionItem:
    """Return the item that an editor shows as ghost text."""
    text, cursor = answer.candidate.insert_text, _cursor(answer, request, encoding)
    place = types.Range(cursor, cursor)
    if request.selected is not None:
        text, place = request.selected.text + text, request.selected.range
    return types.InlineCompletionItem(insert_text=text, range=place, command=command)


def menu_item(
    answer: Answer,
    request: ItemRequest,
    encoding: Encoding,
    mode: types.InsertTextMode | None,
    command: types.Command | None,
) -> types.CompletionItem:
    """Return the item of an editor that shows no ghost text."""
    snapshot, cursor = answer.snapshot, _cursor(answer, request, encoding)
    # Clients show what goes on with the word before the cursor.
    start, _ = line_of(snapshot.text, snapshot.offset)
    before = snapshot.text[start : snapshot.offset]
    word = _WORD.search(before)
    typed = word.group() if word else ""
    text = typed + answer.candidate.insert_text
    first = types.Position(cursor.line, cursor.character - n_code_units(typed, encoding))
    label = text.strip().splitlines()[0]
    if mode is types.InsertTextMode.AdjustIndentation:
        # Such a client indents the lines below like the one where it inserts them.
        indentation = before[: len(before) - len(before.lstrip(" \t"))]
        text = re.sub(rf"(?<=[\r\n]){re.escape(indentation)}", "", text)
    return types.CompletionItem(
        label=label,
        kind=types.CompletionItemKind.Text,
        insert_text_format=types.InsertTextFormat.PlainText,
        insert_text_mode=mode,
        text_edit=types.TextEdit(types.Range(first, cursor), text),
        command=command,
    )


def insert_text_mode(client: types.ClientCapabilities) -> types.InsertTextMode | None:
    """Return what a client is told of indentation: if it can hear it, that it is right."""
    completion = client.text_document.completion if client.text_document else None
    item = completion.completion_item if completion else None
    modes = item.insert_text_mode_support if item else None
    if modes and types.InsertTextMode.AsIs in modes.value_set:
        return types.InsertTextMode.AsIs
    return completion.insert_text_mode if completion else None


def _cursor(answer: Answer, request: ItemRequest, encoding: Encoding) -> types.Position:
    text, offset = answer.snapshot.text, answer.snapshot.offset
    start, _ = line_of(text, offset)
    return types.Position(request.line, n_code_units(text[start:offset], encoding))
