"""A file's turns are written as CodeGen's authors wrote theirs, from the same tokens.

Theirs is a loop over prompts, run here on the engine itself (salesforce/CodeGen,
codegen1/benchmark/mtpb_sample.py): the history is every prompt and program so far, and each
program ends where ``truncate`` cuts. Two things are chosen so that both mean the same bytes.
The authors keep the blank lines that the model writes before its next comment and add two
line ends of their own; in a file one blank line comes between turns, so here what is cut is
stripped of blank lines at its end before the two are added. And both are greedy.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from lsprotocol import types

from lsp_server.loading import load_model
from lsp_server.serving_model import Model
from lsp_server.settings import Settings
from lsp_server.synthesis import synthesize
from lsp_server.truncation import truncate
from lsp_server.verdict import UNCHECKED
from tests.e2e.clients import URI, connected
from tests.e2e.test_turn_actions import Editor

START = """\
import os


# Return the name of a file.
def name_of(path):
    return os.path.basename(path)


# Return the folder of a file.
def folder_of(path):
    return os.path.dirname(path)


# Return whether a file exists.
def is_file(path):
    return os.path.isfile(path)

"""
"""Programs to begin with; from nothing the embedded model writes comments only."""
PROMPTS = (
    "Return the size of a file.",
    "Return the extension of a file.",
    "Return the lines of a file.",
    "Return the absolute path.",
    "Return whether a folder exists.",
    "Return the files of a folder.",
    "Return the time of a file.",
    "Return the text of a file.",
    "Return the owner of a file.",
    "Remove a file.",
)
TEXT = START + "".join(f"# {prompt}\n\n" for prompt in PROMPTS)
MAX_NEW_TOKENS = 96
DEADLINE_S = 120.0


class WatchedEngine:
    """An engine that keeps the prompts that it was given."""

    def __init__(self, engine: Any) -> None:
        self.prompts: list[list[int]] = []
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        """Be the engine in all else."""
        return getattr(self._engine, name)

    def generate(self, token_ids: Sequence[int], **options: Any) -> Iterator[tuple[int, float]]:
        """Keep the prompt and go on as the engine does."""
        self.prompts.append(list(token_ids))
        tokens: Iterator[tuple[int, float]] = self._engine.generate(token_ids, **options)
        return tokens


@pytest.fixture(scope="module")
def model() -> Model:
    """Open the embedded model."""
    return load_model(Settings())


def paper_loop(model: Model) -> tuple[list[list[int]], str]:
    """Return the token ids that each turn began with, and the whole file at the end."""
    history = START
    token_ids: list[list[int]] = []
    for prompt in PROMPTS:
        history += f"# {prompt}\n"
        token_ids.append(model.tokenizer.encode(history).token_ids)
        tokens = model.engine.generate(token_ids[-1], max_new_tokens=MAX_NEW_TOKENS)
        completion = model.tokenizer.decode([token_id for token_id, _ in tokens])
        history += truncate(completion).rstrip() + "\n\n"
    return token_ids, history


@pytest.mark.parametrize("filters", [False, True], ids=["without filters", "with filters"])
def test_turns_are_written_as_the_paper_writes_them(model: Model, filters: bool) -> None:
    """Ten turns get the paper's prompts, token by token, and so its programs.

    The filters change nothing here, because none of the programs gives them a reason to.
    """
    token_ids, history = paper_loop(model)
    watched = WatchedEngine(model.engine)

    turns = list(
        synthesize(
            replace(model, engine=watched),
            TEXT,
            max_new_tokens=MAX_NEW_TOKENS,
            check=lambda _: UNCHECKED,
            filters=filters,
        )
    )

    assert [turn.prompt for turn in turns] == list(PROMPTS)
    assert all(turn.program for turn in turns)
    assert watched.prompts == token_ids
    assert turns[-1].text.rstrip() == history.rstrip()


async def test_the_server_writes_them_too(model: Model) -> None:
    """With the check off, the command leaves the paper's text in the editor."""
    _, history = paper_loop(model)
    options = {"maxNewTokens": MAX_NEW_TOKENS, "checkDeadlineMs": 0}
    async with connected(options=options) as client:
        editor = Editor(client)
        apply = partial(editor.apply)
        client.lsp.feature(types.WORKSPACE_APPLY_EDIT)(apply)
        await client.status("ready")
        editor.open(TEXT)
        await asyncio.wait_for(editor.start("writeAllTurns", URI, 0), DEADLINE_S)

    assert len(editor.texts) == len(PROMPTS)
    assert editor.text.rstrip() == history.rstrip()
