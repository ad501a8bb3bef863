"""Tables of what was measured on source text and in holes; pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from model_eval.hole_scores import METRICS
from model_eval.mtpb_report import Table


def bit_tables(report: Mapping[str, Any]) -> list[Table]:
    """Return bits per byte by how much stands before."""
    settings = report["settings"]
    return [
        (
            f"Bits for each byte of {settings['source']}: {settings['files']} files, windows "
            f"of {settings['window']} tokens, one every {settings['stride']}, eos first",
            [
                "tokens before",
                "bits per byte",
                "95 %",
                "perplexity of a token",
                "bytes",
                "files",
            ],
            [
                [
                    row["positions"],
                    f"{row['bits_per_byte']:.4f}",
                    _interval(row["interval"], 1, 4) if row["n_files"] > 1 else "one file",
                    f"{row['perplexity']:.2f}",
                    f"{row['n_bytes']:,}",
                    str(row["n_files"]),
                ]
                for row in report["bits"]["positions"]
            ],
        )
    ]


def prompt_tables(report: Mapping[str, Any]) -> list[Table]:
    """Return the perplexity of prompts, passed against failed."""
    prompts = report["prompts"]
    low, high = prompts["ratio_interval"]
    evidence = "" if not low <= 1 <= high else ", no evidence"
    verdict = "above" if prompts["is_evidence"] else "not above"
    threshold = prompts["threshold"]
    found = f"; the threshold is {threshold:.1f}" if threshold is not None else ""
    note = f"; {report['calibrated']}" if "calibrated" in report else ""
    return [
        (
            f"Perplexity of the prompts of {prompts['n_problems']} problems, means over them; "
            f"several turns by a single one: {prompts['ratio']:.3f} [{low:.3f}, {high:.3f}]"
            f"{evidence}\nThe AUC's lower bound is {verdict} 0.6{found}{note}",
            [
                "turns",
                "all",
                "passed",
                "failed",
                "AUC in problems",
                "95 %",
                "problems with both",
            ],
            [
                [
                    row["turns"],
                    f"{row['perplexity']:.2f}",
                    _value(row["passed"]),
                    _value(row["failed"]),
                    _value(row["auc"], 3),
                    _interval(row["auc_interval"], 1, 3) if row["auc_interval"] else "",
                    str(row["n_mixed"]),
                ]
                for row in prompts["rows"]
            ],
        )
    ]


def hole_tables(report: Mapping[str, Any]) -> list[Table]:
    """Return each metric by the kind of hole, with how much was answered at all."""
    holes = report["holes"]
    return [
        (
            f"Holes in {report['settings']['project']}, in %; parses, names and tests: of the "
            "holes that fail when they stay empty; stub: the same with `pass` there\n"
            f"{_repeats(holes)}",
            ["kind", "holes", "non-empty", "accepted characters", "metric", "of", "%", "95 %",
             "stub %"],
            list(_hole_rows(holes)),
        )
    ]  # fmt: skip


def _hole_rows(holes: Mapping[str, Any]) -> Iterator[list[str]]:
    for kind in holes["kinds"]:
        first = [
            kind["kind"],
            str(kind["n_holes"]),
            f"{100 * kind['non_empty']:.0f}",
            f"{kind['accepted_characters']:.1f}",
        ]
        by_metric = {row["metric"]: row for row in kind["metrics"]}
        for metric in METRICS:
            if metric in by_metric:
                row = by_metric[metric]
                stub = "" if row["stub"] is None else f"{100 * row['stub']:.1f}"
                shown = [f"{100 * row['mean']:.1f}", _interval(row["interval"], 100, 1), stub]
                yield [*first, metric, str(row["n_holes"]), *shown]
                first = [""] * 4


def _repeats(holes: Mapping[str, Any]) -> str:
    n_late = sum(kind["n_late"] for kind in holes["kinds"] if kind["kind"] == "all")
    late = f"; {n_late} answers were cut by the clock" if n_late else ""
    return f"{holes['n_same']} of {holes['n_repeated']} holes gave the same answer twice{late}"


def _value(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _interval(interval: tuple[float, float], factor: float, digits: int) -> str:
    return " to ".join(f"{factor * bound:.{digits}f}" for bound in interval)
