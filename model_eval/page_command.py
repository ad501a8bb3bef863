"""What ``codegen-lsp eval report`` does: reads the figures of runs, and writes one page."""

import argparse
import json
from pathlib import Path
from typing import Any

from model_eval.errors import RunError
from model_eval.page import render
from model_eval.page_sections import KINDS, kind_of, runs_table, sections


def report(options: argparse.Namespace) -> int:
    """Draw a page of one or several runs."""
    reports = [read_figures(path) for path in options.records]
    kinds = dict.fromkeys(kind_of(own["settings"]) for own in reports)
    subtitle = f"{len(reports)} run{'s' * (len(reports) > 1)}: {', '.join(kinds)}."
    page = render("What is written", subtitle, runs_table(reports), sections(reports))
    try:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(page, "utf-8")
    except OSError as error:
        raise RunError(f"{options.output} cannot be written: {error.strerror}") from error
    print(options.output)
    return 0


def read_figures(path: Path) -> dict[str, Any]:
    """Return the figures of a run; ``path`` is its record, or the file beside it.

    Raises:
        RunError: there are none, or they are of something else.
    """
    figures = path.with_suffix(".json")
    try:
        report: dict[str, Any] = json.loads(figures.read_text("utf-8"))
    except FileNotFoundError:
        raise RunError(
            f"{figures} is not there; give the run's command again, which goes on with "
            f"{path.name} and writes the figures at its end"
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(f"{figures} cannot be read: {error}") from error
    settings = report.get("settings") if isinstance(report, dict) else None
    if not isinstance(settings, dict) or kind_of(settings) not in KINDS:
        raise RunError(f"{figures} holds no figures of a run that a page can show")
    return report
