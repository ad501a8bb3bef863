"""Measures what steering adds to the time of a completion while serving.

The places are dots in methods of real code. After the dot, and after each of the next
characters of the true name, the same completion is written with steering and without. The
prompt is in the model's cache and jedi has seen the file as it was before the dot, as when
someone types; answers have the deadline that they have in the server. At every other place
the names are asked for when the dot is typed, as the server does, and the completion is
asked for after the shortest time that an editor waits; at the others both at once. Run as
``.venv/bin/python -m benchmarks.steering_cost`` after ``make test``; it fetches the packages
from PyPI.
"""

import argparse
import json
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.receivers import Place, places
from lsp_server.check_worker import CheckWorker
from lsp_server.completion import complete
from lsp_server.known_names import KnownNames, NamesRequest
from lsp_server.loading import load_model
from lsp_server.plan import Snapshot
from lsp_server.serving_model import Model
from lsp_server.settings import Settings
from lsp_server.steering import DueNames, NameMemory, NameSource
from lsp_server.terminal import print_table, progress_bar

_PATIENCE_S = 30.0
_LIMIT = 0.15
_KEYSTROKES = 3
_LEADS = {True: "asked at the dot", False: "asked with the completion"}
_LEAD_S = 0.05
"""So long VS Code waits after a keystroke, and other editors wait longer."""
_N_TOKENS = Settings().max_new_tokens


def measure(
    model: Model, place: Place, worker: CheckWorker, *, has_lead: bool
) -> Iterator[dict[str, Any]]:
    """Yield times in milliseconds and what became of the questions, for each keystroke."""
    project, file, dot = place
    text = file.read_text("utf-8")
    head, tail = text[: dot.offset], text[text.find("\n", dot.offset) :]
    memory = NameMemory(worker.known_names)
    # As it was before the dot was typed.
    seen = NamesRequest(head[:-1] + tail, dot.offset - 1, path=str(file), project=str(project))
    worker.known_names(seen).result(_PATIENCE_S)
    for n_typed in range(_KEYSTROKES):
        before = head + dot.name[:n_typed]
        snapshot = Snapshot(before + tail, len(before), "python")
        answers: list[Future[KnownNames | None]] = []

        def ask(
            request: NamesRequest, answers: list[Future[KnownNames | None]] = answers
        ) -> "Future[KnownNames | None]":
            answers.append(memory.ask(request))
            return answers[-1]

        complete(model, snapshot, max_new_tokens=_N_TOKENS)
        if has_lead and not n_typed:
            source = NameSource(memory.ask, str(file), str(project))
            DueNames(source, before, tail).look("")
            time.sleep(_LEAD_S)
        times, completions, n_late = {}, {}, 0
        for is_steered in (n_typed % 2 == 0, n_typed % 2 == 1):
            names = NameSource(ask, str(file), str(project)) if is_steered else None
            started = time.perf_counter()
            found = complete(model, snapshot, max_new_tokens=_N_TOKENS, names=names)
            times[is_steered] = 1e3 * (time.perf_counter() - started)
            completions[is_steered] = found
            if is_steered:
                n_late = sum(not answer.done() or answer.cancelled() for answer in answers)
        yield {
            "n_typed": n_typed,
            "has_lead": has_lead,
            "plain_ms": times[False],
            "steered_ms": times[True],
            "is_same": completions[False].written == completions[True].written,
            "questions": len(answers),
            "late": n_late,
        }


def summary(measured: list[dict[str, Any]]) -> dict[str, float]:
    """Return the medians, the share that steering adds, and how many answers were late."""
    ratios = [m["steered_ms"] / m["plain_ms"] for m in measured]
    same = [m["steered_ms"] / m["plain_ms"] for m in measured if m["is_same"]]
    return {
        "completions": len(measured),
        "plain_ms": median(m["plain_ms"] for m in measured),
        "steered_ms": median(m["steered_ms"] for m in measured),
        "added": median(ratios) - 1,
        "same_text": len(same),
        "added_same_text": median(same) - 1 if same else 0.0,
        "questions": sum(m["questions"] for m in measured),
        "late": sum(m["late"] for m in measured),
    }


def main() -> None:
    """Print the times, and whether steering adds more than it may."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", metavar="M")
    parser.add_argument("--places", type=int, default=30, help="of each source")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    options = parser.parse_args()
    model = load_model(Settings(model=options.model))
    chosen = [p for own in places(options.places).values() for p in own]
    worker = CheckWorker()
    worker.warm_up()
    measured: list[dict[str, Any]] = []
    try:
        with progress_bar("measuring") as progress:
            for index, place in enumerate(chosen, 1):
                measured += measure(model, place, worker, has_lead=bool(index % 2))
                progress(index, len(chosen))
    finally:
        worker.close()
    groups = {}
    for has_lead, name in _LEADS.items():
        own = [m for m in measured if m["has_lead"] is has_lead]
        for n in range(_KEYSTROKES):
            groups[f"{n} typed, {name}"] = [m for m in own if m["n_typed"] == n]
        groups[f"all, {name}"] = own
    found = {name: summary(own) for name, own in groups.items() if own}
    print(f"{model.name}, steering may add {100 * _LIMIT:.0f} % in the median of the pairs")
    print_table(
        [
            "keystroke",
            "pairs",
            "plain, ms",
            "steered, ms",
            "added",
            "added, same text",
            "questions",
            "late",
        ],
        [
            [
                name,
                str(own["completions"]),
                f"{own['plain_ms']:.1f}",
                f"{own['steered_ms']:.1f}",
                f"{100 * own['added']:+.1f} %",
                f"{100 * own['added_same_text']:+.1f} % of {own['same_text']}",
                str(own["questions"]),
                str(own["late"]),
            ]
            for name, own in found.items()
        ],
    )
    if options.json:
        options.json.write_text(
            json.dumps({"medians": found, "each": measured}, indent=1), "utf-8"
        )


if __name__ == "__main__":
    main()
