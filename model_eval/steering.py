"""Writes the samples that tell what steering by known names changes, and scores each.

A case is a dot in a method of a package that the embedded model never saw. The model and
the analyser both see the file without all from the dot to the method's end. After the
evaluation of monitor-guided decoding (Agrawal et al., 2023), in Python. Every arm has the
same seeds. A case's prompt is read before its samples are timed, and they share it; the
names for one text are asked for once a case and always waited for, so that no run differs
from the next. What asking costs while serving is measured elsewhere.
"""

import ast
import hashlib
import keyword
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from pyflakes import checker, messages

from lsp_server.known_names import KnownNames, NameKind, NamesRequest
from lsp_server.serving_model import Model
from lsp_server.steering import BRACKETS, KINDS, Ask, NameSource, Steering
from lsp_server.truncation import cut_statement
from model_eval.dereferences import Dereference, find_dereferences
from model_eval.generating import begin_case
from model_eval.judge import Judgement, Question, judge_names
from model_eval.packages import python_files
from model_eval.records import Record

if TYPE_CHECKING:
    from lsp_server.sampling import BoolArray

ARMS: dict[str, frozenset[str]] = {
    "plain": frozenset(),
    "attributes": frozenset({NameKind.ATTRIBUTE}),
    "brackets": frozenset({BRACKETS}),
    "all": KINDS,
}
TEMPERATURES = (0.2, 0.8)
NAME_EXISTS, SAME_NAME, SAME_LINE = "name exists", "same name", "same line"
METRICS = (NAME_EXISTS, SAME_NAME, "same names", SAME_LINE, "parses", "names defined")
Score = dict[str, float | None]
_TOP_P = 0.95
_MAX_NEW_TOKENS = 48
_TRIED = 3
"""Cases that tell how long all of them take."""
SAMPLING = {
    "temperatures": TEMPERATURES,
    "top_p": _TOP_P,
    "max_new_tokens": _MAX_NEW_TOKENS,
    "arms": {arm: sorted(kinds) for arm, kinds in ARMS.items()},
}
_PATIENCE_S = 30.0
"""Longer than the worker lets one answer take."""
_ASSIGNED = re.compile(r"\w+[ \t]*(?::[^=\n]*)?=(?!=)")


@dataclass(frozen=True)
class Case:
    """One place in one file of a package."""

    package: str
    folder: Path
    """Where the packages lie."""
    path: Path
    dereference: Dereference

    @cached_property
    def file(self) -> str:
        """The path inside the folder of the packages."""
        return self.path.relative_to(self.folder).as_posix()

    @property
    def name(self) -> str:
        """What tells it from all other cases."""
        return f"{self.file}:{self.dereference.offset}"

    @cached_property
    def text(self) -> str:
        """The file."""
        return self.path.read_text("utf-8")

    @property
    def before(self) -> str:
        """The text up to the dot."""
        return self.text[: self.dereference.offset]

    @property
    def after(self) -> str:
        """The text after the method."""
        return self.text[self.dereference.end :]

    @property
    def truth(self) -> str:
        """The rest of the line that stood there."""
        return self.text[self.dereference.offset :].partition("\n")[0].rstrip()


def find_cases(folder: Path, packages: Sequence[str], per_package: int) -> list[Case]:
    """Return so many cases of each package, the same ones every time."""
    cases: list[Case] = []
    for package in packages:
        own: list[Case] = []
        for path in python_files(folder, package):
            # Some packages carry files for other versions of Python, or templates.
            with suppress(SyntaxError, ValueError):
                found = find_dereferences(path.read_text("utf-8"), seed=_hash(path.name))
                own += [Case(package, folder, path, dereference) for dereference in found]
        cases += sorted(own, key=lambda case: _hash(case.name))[:per_package]
    return cases


def sample(
    model: Model, cases: Sequence[Case], ask: Ask, record: Record, n_samples: int
) -> Iterator[None]:
    """Write what the record lacks into it; yields after each case's arm and temperature."""
    done = {(line["case"], line["arm"], line["temperature"]) for line in record.lines}
    for case in cases:
        units = [(arm, temperature) for arm in ARMS for temperature in TEMPERATURES]
        token_ids = None
        ask_once = _asking_once(ask)
        for arm, temperature in units:
            if (case.name, arm, temperature) not in done:
                if token_ids is None:
                    token_ids = _prompt(model, case)
                    begin_case(model, token_ids)
                started = time.perf_counter()
                texts = []
                for seed in range(n_samples):
                    steering = _steering(model, case, ask_once, arm)
                    texts.append(_written(model, token_ids, steering, case, temperature, seed))
                record.add(
                    {
                        "case": case.name,
                        "arm": arm,
                        "temperature": temperature,
                        "texts": texts,
                        "seconds": time.perf_counter() - started,
                    }
                )
            yield


def estimated_seconds(model: Model, cases: Sequence[Case], n_samples: int) -> float:
    """Return about how long the samples of so many cases take, from one sample of a few."""
    tried = cases[:: max(1, len(cases) // _TRIED)][:_TRIED]
    started = time.perf_counter()
    reading_s = 0.0
    for case in tried:
        token_ids = _prompt(model, case)
        before = time.perf_counter()
        begin_case(model, token_ids)
        reading_s += time.perf_counter() - before
        _written(model, token_ids, None, case, max(TEMPERATURES), 0)
    writing_s = time.perf_counter() - started - reading_s
    n_written = len(ARMS) * len(TEMPERATURES) * n_samples
    return (reading_s + n_written * writing_s) / max(1, len(tried)) * len(cases)


def _asking_once(ask: Ask) -> Ask:
    """Return a function that asks nothing twice, and whose answers are there."""
    answers: dict[NamesRequest, Future[KnownNames | None]] = {}

    def ask_once(request: NamesRequest) -> "Future[KnownNames | None]":
        if request not in answers:
            answers[request] = ask(request)
            wait([answers[request]], _PATIENCE_S)
        return answers[request]

    return ask_once


def _prompt(model: Model, case: Case) -> list[int]:
    n_tokens = model.engine.context_length - _MAX_NEW_TOKENS
    # No token is longer than this many characters, most are shorter.
    return model.tokenizer.encode(case.before[-16 * n_tokens :]).token_ids[-n_tokens:]


def _steering(model: Model, case: Case, ask: Ask, arm: str) -> Steering | None:
    if not ARMS[arm]:
        return None
    path, project = str(case.path), str(case.folder)
    source = NameSource(ask, path, project, deadline_s=_PATIENCE_S, kinds=ARMS[arm])
    size = model.engine.vocab_size
    steering = Steering(source, case.before, case.after, model.tokenizer.vocabulary, size)
    steering.look("")
    return steering


def _written(
    model: Model,
    token_ids: list[int],
    steering: Steering | None,
    case: Case,
    temperature: float,
    seed: int,
) -> str:
    """Return what the model writes after a dot, a statement at most."""
    tokenizer, before = model.tokenizer, case.before
    generated: list[int] = []
    written = ""
    line_before = before[before.rfind("\n") + 1 :]

    def allowed(token_ids: list[int]) -> "BoolArray | None":
        text = tokenizer.decode_bytes(token_ids).decode("utf-8", "ignore")
        return None if steering is None else steering.allowed(text)

    for token_id, _ in model.engine.generate(
        token_ids,
        max_new_tokens=_MAX_NEW_TOKENS,
        temperature=temperature,
        top_p=_TOP_P,
        seed=seed,
        allowed=allowed,
    ):
        generated.append(token_id)
        written = tokenizer.decode_bytes(generated).decode("utf-8", "ignore")
        end = cut_statement(line_before, written)
        if end is not None:
            return end
        if steering is not None:
            steering.look(written)
    return written


def judged(cases: Sequence[Case], record: Record, cache: Path) -> dict[Question, Judgement]:
    """Return what the judge says of each name that was written for each case."""
    by_name = {case.name: case for case in cases}
    questions = {
        Question(case.path, case.dereference, first_name(text))
        for line in record.lines
        if (case := by_name.get(line["case"]))
        for text in line["texts"]
        if first_name(text)
    }
    return judge_names(sorted(questions, key=str), search=cases[0].folder, cache=cache)


def score(case: Case, text: str, judgements: Mapping[Question, Judgement]) -> Score:
    """Return a sample's value of each metric; None where the judge does not know."""
    name, line = first_name(text), text.partition("\n")[0].rstrip()
    parses, is_defined = _analysed(case, text)
    return {
        NAME_EXISTS: _exists(case, text, judgements),
        SAME_NAME: name == case.dereference.name,
        "same names": _shared(_names(case.truth), _names(line)),
        SAME_LINE: line == case.truth,
        "parses": parses,
        "names defined": is_defined,
    }


def _exists(case: Case, text: str, judgements: Mapping[Question, Judgement]) -> float | None:
    """Tell whether a sample's next name exists; what it assigns to may well be new."""
    true = Question(case.path, case.dereference, case.dereference.name)
    if judgements.get(true) is not Judgement.EXISTS:
        return None
    statement = case.before[case.before.rfind("\n") + 1 :]
    if statement.strip() == f"{case.dereference.receiver}." and _ASSIGNED.match(text):
        return None
    name = first_name(text)
    judgement = judgements[replace(true, name=name)] if name else Judgement.MISSING
    return None if judgement is Judgement.UNKNOWN else judgement is Judgement.EXISTS


def first_name(text: str) -> str:
    """Return the identifier that a text begins with, if it does."""
    match = re.match(r"[^\W\d]\w*", text)
    return match.group() if match and not keyword.iskeyword(match.group()) else ""


def _names(line: str) -> list[str]:
    return re.findall(r"[^\W\d]\w*", line)


def _shared(true: Sequence[str], own: Sequence[str]) -> float:
    """Return how much of the true names another text begins with."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(true, own, strict=False))
    return sum(1 for _ in same) / len(true)


def _analysed(case: Case, text: str) -> tuple[bool, bool]:
    """Tell whether the file with a sample parses, and then names only what is defined."""
    try:
        tree = ast.parse(case.before + text + "\n" + case.after)
    except (SyntaxError, ValueError):
        return False, False
    first = case.before.count("\n") + 1
    lines = range(first, first + text.count("\n") + 1)
    undefined = (
        message
        for message in checker.Checker(tree).messages
        if isinstance(message, messages.UndefinedName) and message.lineno in lines
    )
    return True, next(undefined, None) is None


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
