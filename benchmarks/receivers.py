"""Measures how often jedi lacks the true name after a dot, by kind of receiver.

The places are dots in methods of click, tqdm and the standard library; jedi sees each file
without the rest of the line. What it lacks too often must not steer what is written. Run
as ``.venv/bin/python -m benchmarks.receivers`` after ``make test``; it fetches the packages
from PyPI.
"""

import argparse
import json
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from lsp_server.known_names import KnownNames, NamesRequest
from lsp_server.name_lookup import known_names
from lsp_server.terminal import print_table, progress_bar
from model_eval.dereferences import Dereference, find_dereferences
from model_eval.packages import name_of, package_folder, python_files

_PACKAGES = ("click==8.1.7", "tqdm==4.66.4")
_STANDARD_LIBRARY = "standard library"
_NOT_CODE = {"site-packages", "dist-packages", "test", "tests", "idlelib", "__pycache__"}
_SEED = 0
_LIMIT = 0.02
"""A kind of receiver that lacks more of the true names than this is not to be steered."""

Place = tuple[Path, Path, Dereference]
"""The project's folder, the file and the dot."""


def places(n: int) -> dict[str, list[Place]]:
    """Return at most ``n`` places of each source, the same ones every time."""
    folder = package_folder(_PACKAGES)
    library = Path(sysconfig.get_path("stdlib"))
    sources = {name_of(r): (folder, python_files(folder, name_of(r))) for r in _PACKAGES}
    modules = sorted(
        file
        for file in library.rglob("*.py")
        if not _NOT_CODE & set(file.relative_to(library).parts)
    )
    sources[_STANDARD_LIBRARY] = (library, modules)
    rng = np.random.default_rng(_SEED)
    chosen = {}
    for source, (project, files) in sources.items():
        found = [(project, file, dot) for file in files for dot in _dots(file)]
        order = rng.permutation(len(found))[:n]
        chosen[source] = [found[index] for index in order]
    return chosen


def _dots(file: Path) -> Iterator[Dereference]:
    try:
        text = file.read_text("utf-8")
        yield from find_dereferences(text, seed=_SEED)
    except (SyntaxError, ValueError):
        return


def ask(place: Place) -> KnownNames | None:
    """Return what is known of the names after a dot, without the rest of its line."""
    project, file, dot = place
    text = file.read_text("utf-8")
    end = text.find("\n", dot.offset)
    without = text[: dot.offset] + (text[end:] if end >= 0 else "")
    try:
        return known_names(
            NamesRequest(without, dot.offset, path=str(file), project=str(project))
        )
    # jedi can raise anything, which costs the worker an answer and no more.
    except Exception:  # noqa: BLE001
        return None


def count(
    chosen: list[Place], progress: Callable[[int, int], None]
) -> dict[tuple[str, str], Counter[str]]:
    """Return by receiver and use how often the true name is known, and how often asked."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for done, place in enumerate(chosen, 1):
        dot, known = place[-1], ask(place)
        use = "store" if dot.is_stored else "read"
        receiver = "uncertain" if known is None else " or ".join(known.receivers)
        own = counts.setdefault((receiver, use), Counter())
        own["places"] += 1
        own["lacking"] += known is not None and dot.name not in known.names
        progress(done, len(chosen))
    return counts


def main() -> None:
    """Print a table of the kinds of receivers."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--places", type=int, default=500, help="of each source")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    options = parser.parse_args()
    started = time.perf_counter()
    by_source = {}
    for source, chosen in places(options.places).items():
        with progress_bar(source) as progress:
            by_source[source] = count(chosen, progress)
    total: dict[tuple[str, str], Counter[str]] = {}
    for counts in by_source.values():
        for key, own in counts.items():
            total.setdefault(key, Counter()).update(own)
    rows = []
    figures = []
    for source, counts in {**by_source, "all": total}.items():
        for (receiver, use), own in sorted(counts.items()):
            figures.append({"source": source, "receiver": receiver, "use": use, **own})
            row = [source, receiver, use, str(own["places"])]
            if receiver != "uncertain":
                share = own["lacking"] / own["places"]
                row += [str(own["lacking"]), f"{100 * share:.1f} %"]
                row += ["above the limit"] * (share > _LIMIT)
            rows.append(row)
    print_table(["source", "receiver", "use", "places", "lacking", "share", ""], rows)
    print(
        f"seed {_SEED}, limit {100 * _LIMIT:.0f} %, {time.perf_counter() - started:.0f} s; "
        "uncertain places are never steered"
    )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1), "utf-8")


if __name__ == "__main__":
    main()
