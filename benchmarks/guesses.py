"""Measures what guessing the next tokens gains, and what wrong guesses cost.

The same text is written without guesses and with them, by turns: edits that repeat what is
there, text that repeats nothing, and text of which every guess is wrong. It knows the
engine, and no server.
"""

import keyword
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.replay_server import ReplayEngine, open_replay
from benchmarks.workers.protocol import PLAIN_IDS
from lsp_server.drafting import PromptLookup, Source
from lsp_server.engine import AllowedTokens
from lsp_server.models import exported_folder
from lsp_server.sampling import BoolArray
from lsp_server.settings import Settings
from lsp_server.tokenizer import Tokenizer
from model_export.manifest import TOKENIZER_FILE

_SEED = 0
_TOKENS = 64
_PROMPT_TOKENS = 256
_CONTEXT_LINES, _KNOWN_LINES, _BLOCK_LINES = 30, 4, 14
_WRONG_TOKENS = 16
_FEWEST_STEPS = 5
_TIMES_SMALL, _TIMES_LARGE = 5, 1
AGAIN = "asked again after a renaming"
"""Elsewhere; the last suggestion is still known."""
BLOCK = "a block that stands above, under another name"
FILE = "a file typed again, renamed, beside the old one"
FRESH = "nothing repeats"
FAILING = "every guess fails"
KINDS = (AGAIN, BLOCK, FILE, FRESH, FAILING)
_EDITS = (AGAIN, BLOCK, FILE)
_LEAST_GAIN, _MOST_LOSS = 1.4, 1.05


@dataclass(frozen=True)
class Case:
    """A prompt to go on from, and the texts that guesses are taken from beside it."""

    kind: str
    prompt: list[int]
    sources: list[list[int]]
    forced: list[int] | None = None
    """What is written whatever the model likes; it chooses where there is none."""

    def allows(self, vocab_size: int) -> AllowedTokens | None:
        """Return what the engine asks before each token."""
        if self.forced is None:
            return None
        forced, mask = self.forced, np.zeros(vocab_size, np.bool_)

        def only(generated: list[int]) -> BoolArray:
            mask[forced[len(generated) - 1]] = False
            mask[forced[len(generated)]] = True
            return mask

        return only


@dataclass(frozen=True)
class Written:
    """What one generation gave."""

    token_ids: list[int]
    ms: float
    steps: list[tuple[int, float]]
    """How many tokens each ran, and for how many milliseconds."""


@dataclass(frozen=True)
class Compared:
    """One case without speculation and with it; medians over its repetitions."""

    kind: str
    ms_per_token: tuple[float, float]
    tokens_per_step: float
    is_equal: bool
    gap: float
    """Between the two tokens where the texts part first, in nats; 0 where they do not."""

    @property
    def ratio(self) -> float:
        """How much longer a token takes without speculation."""
        without, with_it = self.ms_per_token
        return without / with_it


def write(engine: ReplayEngine, case: Case, *, speculates: bool) -> Written:
    """Generate from a prompt that was read already."""
    for _ in engine.generate(case.prompt, max_new_tokens=1):
        pass
    draft = PromptLookup(map(Source, case.sources)) if speculates else None
    n_runs = len(engine.session.runs)
    started = time.perf_counter()
    token_ids = [
        token_id
        for token_id, _ in engine.generate(
            case.prompt,
            max_new_tokens=_TOKENS,
            allowed=case.allows(engine.vocab_size),
            draft=draft,
        )
    ]
    ms = 1e3 * (time.perf_counter() - started)
    runs = engine.session.runs[n_runs:]
    steps = [(run.n_tokens, run.ms - run.own_ms) for run in runs]
    return Written(token_ids, ms - sum(run.own_ms for run in runs), steps)


def compare(engine: ReplayEngine, case: Case, n_times: int) -> tuple[Compared, list[Written]]:
    """Generate without and with speculation by turns."""
    pairs = [
        (write(engine, case, speculates=False), write(engine, case, speculates=True))
        for _ in range(n_times)
    ]
    without, with_it = pairs[0]
    return Compared(
        case.kind,
        (_ms_per_token([pair[0] for pair in pairs]), _ms_per_token([p[1] for p in pairs])),
        len(with_it.token_ids) / len(with_it.steps),
        without.token_ids == with_it.token_ids,
        _gap(engine, case, without.token_ids, with_it.token_ids),
    ), [written for pair in pairs for written in pair]


def _ms_per_token(written: Sequence[Written]) -> float:
    return median(one.ms / max(1, len(one.token_ids)) for one in written)


def _gap(engine: ReplayEngine, case: Case, one: list[int], other: list[int]) -> float:
    for place, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        if mine != theirs:
            context = [*case.prompt, *one[:place]]
            first, second = (
                float(engine.log_probabilities([*context, token_id], len(context))[0])
                for token_id in (mine, theirs)
            )
            return abs(first - second)
    return 0.0


def make_cases(
    engine: ReplayEngine, tokenizer: Tokenizer, texts: Sequence[str], n: int
) -> Iterator[Case]:
    """Yield ``n`` cases of each kind, in random places of the texts."""
    rng = np.random.default_rng(_SEED)

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text).token_ids

    for index in range(n):
        before, block = _place(texts[index % len(texts)], rng)
        known = "".join(block[:_KNOWN_LINES])
        prompt = ids(before + known)[-_PROMPT_TOKENS:]
        suggested = tokenizer.decode(
            write(engine, Case("", prompt, []), speculates=False).token_ids
        )
        edited = ids(renamed(before + known))[-_PROMPT_TOKENS:]
        yield Case(AGAIN, edited, [ids(known + suggested)])
        again = "".join(block) + "\n" + renamed_function(known)
        yield Case(BLOCK, ids(before + again)[-_PROMPT_TOKENS:], [])
        yield Case(FILE, edited, [ids(before + "".join(block))])
        # No token comes twice, so nothing can be found again.
        strange = rng.permutation(PLAIN_IDS)[: _PROMPT_TOKENS + _TOKENS].tolist()
        fresh, forced = strange[:_PROMPT_TOKENS], strange[_PROMPT_TOKENS:]
        yield Case(FRESH, fresh, [], forced)
        yield Case(FAILING, fresh, [wrong_guesses([*fresh[-3:], *forced])], forced)


def _place(text: str, rng: np.random.Generator) -> tuple[str, list[str]]:
    """Return the lines before a function and its first lines."""
    lines = text.splitlines(keepends=True)
    starts = [
        index
        for index, line in enumerate(lines[: len(lines) - _BLOCK_LINES])
        if line.lstrip().startswith("def ") and index >= _KNOWN_LINES
    ]
    start = int(rng.choice(starts))
    before = "".join(lines[max(0, start - _CONTEXT_LINES) : start])
    return before, lines[start : start + _BLOCK_LINES]


def wrong_guesses(token_ids: list[int]) -> list[int]:
    """Return a source that holds all that will be written, and goes on wrongly each time."""
    wrong = [token_ids[0]] * _WRONG_TOKENS
    parts = ([*token_ids[at : at + 3], *wrong] for at in range(len(token_ids) - 2))
    return [token_id for part in parts for token_id in part]


def renamed(text: str) -> str:
    """Return the text with its commonest name changed everywhere."""
    names = re.findall(r"\b[a-z_]\w{3,}\b", text)
    common = Counter(name for name in names if not keyword.iskeyword(name)).most_common(1)
    return re.sub(rf"\b{common[0][0]}\b", f"new_{common[0][0]}", text) if common else text


def renamed_function(text: str) -> str:
    """Return the text with the name of the first function changed."""
    return re.sub(r"\bdef (\w+)", r"def new_\1", text, count=1)


@dataclass(frozen=True)
class Speculation:
    """The figures of one kind of case."""

    kind: str
    cases: int
    ms_without: float
    ms_with: float
    """Per token, medians."""
    ratio: float
    """Without / with, the median over the cases."""
    least_ratio: float
    tokens_per_step: float
    equal_share: float
    largest_gap: float
    """Between tokens where texts part, in nats."""


def gather(title: str, compared: Sequence[Compared], kinds: Sequence[str]) -> Speculation:
    """Return the figures of some kinds together."""
    chosen = [one for one in compared if one.kind in kinds]
    ratios = [one.ratio for one in chosen]
    return Speculation(
        title,
        len(chosen),
        median(one.ms_per_token[0] for one in chosen),
        median(one.ms_per_token[1] for one in chosen),
        median(ratios),
        min(ratios),
        median(one.tokens_per_step for one in chosen),
        sum(one.is_equal for one in chosen) / len(chosen),
        max(one.gap for one in chosen),
    )


@dataclass(frozen=True)
class Speculated:
    """What speculation does for one model."""

    by_kind: list[Speculation]
    edits: Speculation
    """All kinds that repeat what is there."""
    step_ms: dict[int, float]
    """What a step costs by the number of its tokens; the median."""

    @property
    def gains_enough(self) -> bool:
        """Whether edits gain what they should."""
        return self.edits.ratio >= _LEAST_GAIN

    @property
    def loses_little(self) -> bool:
        """Whether text that repeats nothing loses at most what it may."""
        fresh = next(one for one in self.by_kind if one.kind == FRESH)
        return 1 / fresh.ratio <= _MOST_LOSS

    def to_json(self) -> dict[str, Any]:
        """Return the figures, and whether they are as they should be."""
        return {
            **asdict(self),
            "gains_enough": self.gains_enough,
            "loses_little": self.loses_little,
        }


def speculate(
    model: str | None,
    beside: Path | None,
    texts: Sequence[str],
    n_cases: int,
    tell: Callable[[int], None],
) -> Speculated:
    """Compare writing without speculation and with it, in all kinds of cases."""
    folder = exported_folder(model)
    _, engine = open_replay(folder, Settings(), beside=beside)
    tokenizer = Tokenizer.from_file(folder / TOKENIZER_FILE)
    compared, steps = [], []
    for case in make_cases(engine, tokenizer, texts, n_cases):
        one, written = compare(engine, case, _TIMES_LARGE if beside else _TIMES_SMALL)
        compared.append(one)
        steps += [step for single in written for step in single.steps]
        tell(1)
    return Speculated(
        [gather(kind, compared, (kind,)) for kind in KINDS],
        gather("all edits", compared, _EDITS),
        _by_size(steps),
    )


def _by_size(steps: Sequence[tuple[int, float]]) -> dict[int, float]:
    """Return the median time of steps by their number of tokens, where there are some."""
    times: dict[int, list[float]] = {}
    for n_tokens, ms in steps:
        times.setdefault(n_tokens, []).append(ms)
    return {
        n: round(median(times[n]), 3) for n in sorted(times) if len(times[n]) >= _FEWEST_STEPS
    }


def speculated_table(name: str, found: Speculated) -> Table:
    """Return the figures of one model as a table."""
    steps = ", ".join(f"{n}: {ms:.2f}" for n, ms in found.step_ms.items())
    table = Table(
        *("speculation", "cases", "ms/token without", "with", "ratio", "least"),
        *("tokens/step", "same text", "parts at"),
        title=name,
        caption=f"Ratio: median of without / with. Parts at: the largest gap, in nats, "
        f"between the two tokens where texts part. ms of a step by its tokens: {steps}",
    )
    for one in (*found.by_kind, found.edits):
        table.add_row(
            *(one.kind, f"{one.cases}", f"{one.ms_without:.2f}", f"{one.ms_with:.2f}"),
            *(f"{one.ratio:.2f}", f"{one.least_ratio:.2f}", f"{one.tokens_per_step:.2f}"),
            *(f"{100 * one.equal_share:.0f} %", f"{one.largest_gap:.3f}"),
        )
    return table
