"""Measures what steering by known names changes: the same samples with it and without.

A case is a dot in a method of a package that the embedded model never saw. The model and
the analyser both see the file without all from the dot to the method's end. After the
evaluation of monitor-guided decoding (Agrawal et al., 2023), in Python.
"""

import ast
import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pyflakes import checker, messages

from lsp_server.completion import Model
from lsp_server.known_names import KnownNames, NameKind, NamesRequest
from lsp_server.steering import NameSource, Steering
from lsp_server.truncation import cut_statement
from model_eval.dereferences import Dereference, find_dereferences
from model_eval.judge import Judgement, judge_names
from model_eval.packages import python_files
from model_eval.records import Record

if TYPE_CHECKING:
    from lsp_server.sampling import BoolArray

ARMS: dict[str, frozenset[NameKind]] = {
    "plain": frozenset(),
    "attributes": frozenset({NameKind.ATTRIBUTE}),
    "all": frozenset(NameKind),
}
TEMPERATURES = (0.2, 0.8)
METRICS = ("name exists", "same name", "same names", "same line", "parses", "names defined")
_TOP_P = 0.95
_MAX_NEW_TOKENS = 48
_PATIENCE_S = 30.0
"""Were an answer late, a run would differ from the next."""

Ask = Callable[[NamesRequest], "Future[KnownNames | None]"]


@dataclass(frozen=True)
class Case:
    """One place in one file of a package."""

    package: str
    path: Path
    dereference: Dereference

    @property
    def name(self) -> str:
        """What tells it from all other cases."""
        return f"{self.package}/{self.path.name}:{self.dereference.offset}"

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
        own = [
            Case(package, path, dereference)
            for path in python_files(folder, package)
            for dereference in find_dereferences(path.read_text("utf-8"), seed=_hash(path.name))
        ]
        cases += sorted(own, key=lambda case: _hash(case.name))[:per_package]
    return cases


def sample(
    model: Model, cases: Sequence[Case], folder: Path, ask: Ask, record: Record, n_samples: int
) -> Iterator[None]:
    """Write what the record lacks into it; yields after each case."""
    done = {(line["case"], line["arm"], line["temperature"]) for line in record.lines}
    for case in cases:
        before, path = case.before, str(case.path)
        for arm, kinds in ARMS.items():
            source = NameSource(ask, path, str(folder), deadline_s=_PATIENCE_S, kinds=kinds)
            for temperature in TEMPERATURES:
                if (case.name, arm, temperature) in done:
                    continue
                started = time.perf_counter()
                written = [
                    _written(model, source, before, case.after, temperature, seed)
                    for seed in range(n_samples)
                ]
                seconds = time.perf_counter() - started
                record.add(
                    {
                        "case": case.name,
                        "arm": arm,
                        "temperature": temperature,
                        "texts": written,
                        "seconds": seconds,
                    }
                )
        yield


def _written(
    model: Model, source: NameSource, before: str, after: str, temperature: float, seed: int
) -> str:
    """Return what the model writes after a dot, a statement at most."""
    tokenizer, engine = model.tokenizer, model.engine
    n_tokens = engine.context_length - _MAX_NEW_TOKENS
    # No token is longer than this many characters, most are shorter.
    token_ids = tokenizer.encode(before[-16 * n_tokens :]).token_ids[-n_tokens:]
    steering = None
    if source.kinds:
        steering = Steering(source, before, after, tokenizer.vocabulary, engine.vocab_size)
        steering.look("")
    generated: list[int] = []
    written = ""
    line_before = before[before.rfind("\n") + 1 :]

    def allowed(token_ids: list[int]) -> "BoolArray | None":
        text = tokenizer.decode_bytes(token_ids).decode("utf-8", "ignore")
        return None if steering is None else steering.allowed(text)

    for token_id, _ in engine.generate(
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


def judged(
    cases: Sequence[Case], record: Record, folder: Path, cache: Path
) -> dict[tuple[str, str], Judgement]:
    """Return what the judge says of each name that was written for each case."""
    names: dict[str, dict[str, None]] = {}
    for line in record.lines:
        own = names.setdefault(line["case"], {})
        own.update(
            dict.fromkeys(first for text in line["texts"] if (first := first_name(text)))
        )
    judgements = {}
    for path in dict.fromkeys(case.path for case in cases):
        here = [case for case in cases if case.path == path]
        wanted = {case.dereference: list(names.get(case.name, ())) for case in here}
        found = judge_names(path, wanted, search=folder, cache=cache)
        by_dereference = {case.dereference: case.name for case in here}
        for (dereference, name), judgement in found.items():
            judgements[by_dereference[dereference], name] = judgement
    return judgements


def score(
    case: Case, text: str, judgements: Mapping[tuple[str, str], Judgement]
) -> dict[str, float | None]:
    """Return a sample's value of each metric; None where the judge does not know."""
    name, line = first_name(text), text.partition("\n")[0].rstrip()
    judgement = judgements.get((case.name, name), Judgement.UNKNOWN)
    if not name:
        judgement = Judgement.MISSING
    true_names, own_names = _names(case.truth), _names(line)
    parses, is_defined = _analysed(case, text)
    return {
        "name exists": None
        if judgement is Judgement.UNKNOWN
        else judgement is Judgement.EXISTS,
        "same name": name == case.dereference.name,
        "same names": own_names[: len(true_names)] == true_names,
        "same line": line == case.truth,
        "parses": parses,
        "names defined": is_defined,
    }


def first_name(text: str) -> str:
    """Return the identifier that a text begins with."""
    match = re.match(r"\w+", text)
    return match.group() if match else ""


def _names(line: str) -> list[str]:
    return re.findall(r"[^\W\d]\w*", line)


def _analysed(case: Case, text: str) -> tuple[bool, bool | None]:
    """Tell whether the file with a sample parses, and whether what the sample names is."""
    try:
        tree = ast.parse(case.before + text + "\n" + case.after)
    except (SyntaxError, ValueError):
        return False, None
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
