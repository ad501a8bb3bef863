"""The Multi-Turn Programming Benchmark: its problems, and the programs written for them.

After Nijkamp et al., 2022, section 4, and salesforce/CodeGen, codegen1/benchmark. A case is
a problem with one of its inputs; every arm writes the case's program anew, from an empty
cache. Several turns are written one after another, each on top of those before, as the
editor writes them (``clean``) or as the published script does; a single turn is one comment
with all that is wanted.
"""

import hashlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lsp_server.indentation import is_tabbed, with_tabs
from lsp_server.plan import unix
from lsp_server.serving_model import Model
from lsp_server.synthesis import open_turn
from lsp_server.truncation import cut_turn, truncate
from lsp_server.turns import Turn
from model_eval.errors import ProblemsError
from model_eval.executing import Executions
from model_eval.generating import (
    Cut,
    End,
    Sampling,
    begin_case,
    prompt_tokens,
    seed_of,
    write,
)
from model_eval.records import Record

PUBLISHED_URL = (
    "https://raw.githubusercontent.com/salesforce/CodeGen/main/codegen1/benchmark/mtpb.jsonl"
)
PUBLISHED_SHA256 = "3ab79ddb160f484a63491330ba72204930d56cc946f7c0c5fb469622a941f89c"
_LEFT_OUT = ("1", "23", "38", "46")
"""Problems of the published file that measure nothing: a copy of 26 with another's name, one
that compares chance with chance, and two that read files that were not published."""
PREFIX = "# Import libraries.\n\nimport numpy as np\n\n"
_MAX_NEW_TOKENS = 256
"""Where a problem states none."""
_CONTEXT = 2048
"""Tokens of CodeGen's models; a longer one gives a single turn no more."""
_OLD_LIMIT = 1024
"""Tokens at which the published script's tokenizer cuts a prompt, from its end."""
_DOWNLOAD_S = 60.0
_TRIED = 2
"""Cases that tell how long all of them take."""
MULTI, LINE, BLOCK = "multi", "line", "block"
SINGLES = ("line", "line cut", "block", "block cut")
"""Readings of a single turn: one line of comment, or a block; cut: before a second def or
print."""


@dataclass(frozen=True)
class Problem:
    """One problem, with the inputs of its cases."""

    id: str
    prompts: tuple[str, ...]
    inputs: tuple[Mapping[str, Any], ...]
    answers: tuple[Any, ...]
    max_new_tokens: int


@dataclass(frozen=True)
class Case:
    """A problem with one of its inputs."""

    problem: Problem
    index: int

    @property
    def name(self) -> str:
        """What tells it from all other cases."""
        return f"{self.problem.id}.{self.index}"

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts with the input in them."""
        values = self.problem.inputs[self.index]
        return tuple(prompt.format(**values) for prompt in self.problem.prompts)

    @property
    def answer(self) -> Any:
        """What the program is to print."""
        return self.problem.answers[self.index]


@dataclass(frozen=True)
class Ways:
    """How the published script writes turns unlike us; the defaults are ours."""

    top_k: int = 0
    """50 was transformers' default then."""
    keeps_blank_lines: bool = False
    """Programs are kept as they were cut, with two line ends after them."""
    cleans_up: bool = False
    """Decoding takes spaces away before some marks, as transformers did then."""
    loses_newest: bool = False
    """A prompt of more than 1,024 tokens loses its end."""


CLEAN = Ways()
DIFFERENCES = {
    "top_k 50": Ways(top_k=50),
    "its blank lines": Ways(keeps_blank_lines=True),
    "cleaned-up spaces": Ways(cleans_up=True),
    "prompts cut at 1,024": Ways(loses_newest=True),
}
FAITHFUL = Ways(top_k=50, keeps_blank_lines=True, cleans_up=True, loses_newest=True)
ARMS: dict[str, dict[str, Ways]] = {
    "clean": {MULTI: CLEAN, LINE: CLEAN, BLOCK: CLEAN},
    "faithful": {MULTI: CLEAN, **DIFFERENCES, "faithful": FAITHFUL},
}
"""What each mode generates."""


@dataclass(frozen=True)
class Text:
    """One generation of a case: a turn, or the single one."""

    text: str
    end: str
    n_tokens: int


def read_problems(path: Path, *, whole: bool) -> tuple[list[Problem], str]:
    """Return the problems of a file of the published format, and its SHA-256.

    Of the published file those are left out that measure nothing, unless it is ``whole``.

    Raises:
        ProblemsError: there is no such file, or it has another format.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ProblemsError(f"{path} cannot be read: {error.strerror}") from error
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        problems = [_problem(json.loads(line)) for line in data.decode().splitlines()]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ProblemsError(
            f"{path} is no file of problems as mtpb.jsonl is one: {error!r}"
        ) from error
    if not problems:
        raise ProblemsError(f"{path} holds no problem")
    if sha256 == PUBLISHED_SHA256 and not whole:
        problems = [problem for problem in problems if problem.id not in _LEFT_OUT]
    return problems, sha256


def is_left_out(problem_id: str, sha256: str) -> bool:
    """Tell whether a problem of a file counts in the published numbers only."""
    return sha256 == PUBLISHED_SHA256 and problem_id in _LEFT_OUT


def _problem(line: Mapping[str, Any]) -> Problem:
    # The published file has an output too many (57), which belongs to no input.
    n_cases = min(len(line["inputs"]), len(line["outputs"]))
    problem = Problem(
        id=str(line["id"]),
        prompts=tuple(line["prompts"]),
        inputs=tuple(line["inputs"][:n_cases]),
        answers=tuple(line["outputs"][:n_cases]),
        max_new_tokens=int(line.get("max_gen_length", _MAX_NEW_TOKENS)),
    )
    for index in range(n_cases):
        if not all(Case(problem, index).prompts):
            raise ValueError(f"problem {problem.id} has an empty prompt")
    return problem


def download_problems(folder: Path, url: str = PUBLISHED_URL) -> Path:
    """Return the published file, fetched into a folder where it is not there.

    Raises:
        ProblemsError: it cannot be fetched, or is not the one that was published.
    """
    path = folder / "mtpb.jsonl"
    if path.is_file():
        return path
    try:
        with urllib.request.urlopen(url, timeout=_DOWNLOAD_S) as answer:  # noqa: S310
            data = answer.read()
    except (OSError, urllib.error.URLError) as error:
        raise ProblemsError(f"{url} cannot be fetched: {error}") from error
    if hashlib.sha256(data).hexdigest() != PUBLISHED_SHA256:
        raise ProblemsError(f"{url} is not the file that was published; it is not kept")
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(data)
    partial.replace(path)
    return path


def choose_cases(
    problems: Sequence[Problem], *, limit: int | None, inputs: int | None, seed: int
) -> list[Case]:
    """Return the cases of so many problems and inputs, in an order that is chance.

    So the cases that are done when a run is broken off are a fair sample of all.
    """
    chosen = sorted(problems, key=lambda p: seed_of(seed, "problem", p.id))[:limit]
    cases = [
        Case(problem, index)
        for problem in chosen
        for index in range(len(problem.inputs))[:inputs]
    ]
    return sorted(cases, key=lambda case: seed_of(seed, "case", case.name))


def write_case(
    model: Model, case: Case, arm: str, ways: Ways, sampling: Sampling, seeds: tuple[Any, ...]
) -> list[Text]:
    """Return what the model writes for a case, turn by turn; ``seeds`` tell the sample."""
    begin_case(model)
    if arm in (LINE, BLOCK):
        return [_single(model, case, arm, sampling, seeds)]
    writes = _published_turns if ways.keeps_blank_lines else _editor_turns
    sampling = Sampling(sampling.temperature, sampling.top_p, ways.top_k)
    return list(writes(model, case, ways, sampling, seeds))


def programs_of(
    case: Case, arm: str, ways: Ways, texts: Sequence[str]
) -> dict[str, tuple[str, str]]:
    """Return what is run of one arm, by label: all that was written, and the program.

    A single turn is read twice: as it is, and cut before a second def or print.
    """
    if arm in (LINE, BLOCK):
        text, prompt = texts[0], single_prompt(case, arm)
        cut = cut_turn(text, "")
        cut = text if cut is None else cut
        return {arm: (text, prompt + text), f"{arm} cut": (cut, prompt + cut)}
    if not ways.keeps_blank_lines:
        program = written_file(case.prompts, texts)
    else:
        turns = zip(case.prompts, texts, strict=True)
        program = PREFIX + "".join(f"# {prompt}\n{text}\n\n" for prompt, text in turns)
    return {arm: ("".join(texts), program)}


def single_prompt(case: Case, arm: str) -> str:
    """Return the text that a single turn goes on from: one line of comment, or a block."""
    if arm == LINE:
        return PREFIX + "# " + " ".join(" ".join(case.prompts).split("\n")) + "\n"
    return PREFIX + "".join(f"# {prompt}\n" for prompt in case.prompts)


def _single(
    model: Model, case: Case, arm: str, sampling: Sampling, seeds: tuple[Any, ...]
) -> Text:
    """Write all at once, in no more tokens than the turns together may take."""
    text = single_prompt(case, arm)
    budget = len(case.prompts) * case.problem.max_new_tokens
    n_prompt = len(model.tokenizer.encode(text).token_ids)
    context = min(_CONTEXT, model.engine.context_length)
    budget = max(1, min(budget, context - n_prompt))
    token_ids = prompt_tokens(model, text, budget)

    def cut(written: str) -> str | None:
        return cut_turn(written, "", seconds=False)

    return _written(model, token_ids, sampling, budget, seed_of(*seeds, arm), cut, CLEAN)


def _editor_turns(
    model: Model, case: Case, ways: Ways, sampling: Sampling, seeds: tuple[Any, ...]
) -> Iterator[Text]:
    programs: list[str] = []
    for index in range(len(case.prompts)):
        before = text_before_turn(case.prompts, programs)
        limit = case.problem.max_new_tokens
        token_ids = _newest(model, before, limit, ways)
        seed = seed_of(*seeds, index)
        # A file of tabs gets tabs.
        fitted = with_tabs if is_tabbed(written_file(case.prompts, programs)) else str

        def cut(written: str, fitted: Callable[[str], str] = fitted) -> str | None:
            return cut_turn(fitted(written), "")

        written = _written(model, token_ids, sampling, limit, seed, cut, ways)
        programs.append(fitted(written.text).rstrip())
        yield Text(programs[-1], written.end, written.n_tokens)


def written_file(prompts: Sequence[str], programs: Sequence[str]) -> str:
    """Return an editor's file where the first turns have programs, the others none yet.

    The file begins with all prompts, a blank line after each; a program goes where the
    editor's turn code puts it.
    """
    text = PREFIX + "".join(f"# {prompt}\n\n" for prompt in prompts)
    start = len(PREFIX)
    for prompt, program in zip(prompts, programs, strict=False):
        prompt_end = start + len(f"# {prompt}\n")
        n_below = len(text) - (prompt_end + 1)
        turn = Turn(start, prompt_end, prompt_end + 1, "", prompt, (), has_program=False)
        if program:
            text = open_turn(text, turn).written(program)
        start = len(text) - n_below
    return text


def text_before_turn(prompts: Sequence[str], programs: Sequence[str]) -> str:
    """Return what the model goes on from in the first turn that has no program."""
    below = "".join(f"# {prompt}\n\n" for prompt in prompts[len(programs) + 1 :])
    return written_file(prompts, programs)[: -1 - len(below)]


def _published_turns(
    model: Model, case: Case, ways: Ways, sampling: Sampling, seeds: tuple[Any, ...]
) -> Iterator[Text]:
    """Write as the loop of ``mtpb_sample.py`` does."""
    history = PREFIX
    for index, prompt in enumerate(case.prompts):
        history += f"# {prompt}\n"
        limit = case.problem.max_new_tokens
        token_ids = _newest(model, history, limit, ways)

        def cut(written: str) -> str | None:
            decoded = _decoded(written, ways)
            kept = truncate(decoded)
            return kept if len(kept) < len(decoded) else None

        seed = seed_of(*seeds, index)
        written = write(model, token_ids, sampling, max_new_tokens=limit, seed=seed, cut=cut)
        text = written.text if written.end is End.CUT else _decoded(written.text, ways)
        history += text + "\n\n"
        yield Text(text, written.end.value, written.n_tokens)


def _written(
    model: Model,
    token_ids: Sequence[int],
    sampling: Sampling,
    limit: int,
    seed: int,
    cut: Cut,
    ways: Ways,
) -> Text:
    """Write as ``completion`` does where nothing is filtered."""

    def cut_decoded(text: str) -> str | None:
        return cut(_decoded(unix(text), ways))

    written = write(
        model, token_ids, sampling, max_new_tokens=limit, seed=seed, cut=cut_decoded
    )
    text = written.text
    if written.end is not End.CUT:
        text = _decoded(unix(text), ways)
        # Where the model ended the text, it ended whatever it was writing.
        kept = cut(text + "\n") if written.end is End.MODEL else None
        text = text if kept is None else kept
    return Text(text, written.end.value, written.n_tokens)


def _newest(model: Model, text: str, limit: int, ways: Ways) -> list[int]:
    if not ways.loses_newest:
        return prompt_tokens(model, text, limit)
    room = min(_OLD_LIMIT, model.engine.context_length - limit)
    return model.tokenizer.encode(text).token_ids[:room]


def _decoded(text: str, ways: Ways) -> str:
    """Return a text as transformers decoded it (``clean_up_tokenization``), where wanted."""
    if ways.cleans_up:
        for found, left in (
            *((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'")),
            *((" n't", "n't"), (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")),
        ):
            text = text.replace(found, left)
    return text


def sample(
    model: Model,
    cases: Sequence[Case],
    mode: str,
    sampling: Sampling,
    *,
    n_samples: int,
    seed: int,
    record: Record,
    executions: Executions,
) -> Iterator[None]:
    """Write and run what the record lacks; yields after each case's arm."""
    done = {
        (line["case"], line["sample"], line["arm"]): line["texts"]
        for line in record.lines
        if "arm" in line
    }
    for number in range(n_samples):
        for case in cases:
            for arm, ways in ARMS[mode].items():
                texts = done.get((case.name, number, arm))
                if texts is None:
                    started = time.perf_counter()
                    seeds = (seed, case.name, number)
                    written = write_case(model, case, arm, ways, sampling, seeds)
                    texts = [part.text for part in written]
                    record.add(
                        {
                            "case": case.name,
                            "sample": number,
                            "arm": arm,
                            "texts": texts,
                            "ends": [part.end for part in written],
                            "tokens": [part.n_tokens for part in written],
                            "seconds": time.perf_counter() - started,
                        }
                    )
                for _, program in programs_of(case, arm, ways, texts).values():
                    executions.want(program)
                yield


def estimated_hours(
    model: Model,
    cases: Sequence[Case],
    mode: str,
    sampling: Sampling,
    n_left: int,
    record: Record,
) -> float:
    """Return about how long so many more generations take.

    It is told by those that are recorded, or by all arms of a few cases.
    """
    seconds: list[float] = [line["seconds"] for line in record.lines if "arm" in line]
    for case in cases[: _TRIED if len(seconds) < len(ARMS[mode]) else 0]:
        for arm, ways in ARMS[mode].items():
            started = time.perf_counter()
            write_case(model, case, arm, ways, sampling, (0, case.name, 0))
            seconds.append(time.perf_counter() - started)
    return n_left * sum(seconds) / max(1, len(seconds)) / 3600
