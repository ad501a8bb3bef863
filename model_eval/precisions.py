"""What a smaller precision of one checkpoint costs: pure figures and tables.

A rung is a precision with a kind of KV cache; the first is what the others are compared with.
What is measured on a rung are bits per byte, holes, or both; see ``bits`` and ``hole_scores``.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from model_eval.bits import bit_costs, bit_figures, same_best
from model_eval.hole_scores import METRICS, hole_figures
from model_eval.mtpb_report import Table
from model_eval.scores import Difference, bootstrap_interval, paired_difference
from model_export.checkpoint import open_checkpoint

_FEW_BITS = 15
"""A checkpoint with fewer for a weight was quantized before."""


@dataclass(frozen=True)
class Rung:
    """One way to run a checkpoint."""

    precision: str
    kv_cache: Literal["float", "int8"] = "float"

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.precision if self.kv_cache == "float" else f"{self.precision}, int8 cache"


RUNGS = (
    Rung("fp32"),
    Rung("fp16"),
    Rung("int8"),
    Rung("int8", "int8"),
    Rung("int4"),
    Rung("int4", "int8"),
)


@dataclass(frozen=True)
class Measured:
    """What was recorded on one rung."""

    rung: Rung
    megabytes: float
    bit_lines: Sequence[Mapping[str, Any]]
    hole_lines: Sequence[Mapping[str, Any]]
    """Empty where no holes were asked for."""
    passed: Mapping[str, float]
    """Of each of HumanEval's problems the share of samples that pass; empty if not asked."""


def bits_per_weight(checkpoint: Path) -> float:
    """Return how many bits a weight of a checkpoint has, the mean of all.

    Raises:
        ExportError: it is no checkpoint.
    """
    opened = open_checkpoint(checkpoint)
    n_weights = sum(math.prod(tensor.shape) for tensor in opened.tensors.values())
    return 8 * sum(file.stat().st_size for file in opened.files) / n_weights


def ladder_figures(measured: Sequence[Measured], bits_stored: float) -> dict[str, Any]:
    """Return what each rung costs against the first one."""
    base = measured[0] if measured else None
    return {
        "bits_per_weight_stored": bits_stored,
        "is_claim": bits_stored >= _FEW_BITS,
        "rungs": [_rung(own, base) for own in measured if base is not None],
    }


def _rung(own: Measured, base: Measured) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "rung": own.rung.name,
        "precision": own.rung.precision,
        "kv_cache": own.rung.kv_cache,
        "megabytes": own.megabytes,
        "bits": bit_figures(own.bit_lines)["positions"],
        "same_best": same_best(own.bit_lines, base.bit_lines),
        "costs": bit_costs(own.bit_lines, base.bit_lines) if own is not base else [],
    }
    if own.hole_lines:
        ours, theirs = hole_figures(own.hole_lines), hole_figures(base.hole_lines)
        figures["holes"] = ours
        if own is not base:
            figures["hole_differences"] = hole_differences(ours, theirs)
    if own.passed:
        rates = list(own.passed.values())
        figures["pass_at_1"] = fmean(rates)
        figures["pass_interval"] = bootstrap_interval([[rate] for rate in rates])
        if own is not base:
            theirs_passed = [base.passed[name] for name in own.passed]
            figures["pass_difference"] = _json(paired_difference(rates, theirs_passed))
    return figures


def hole_differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return how much each metric differs on the holes that both runs count."""
    found = []
    for metric in METRICS:
        pairs = [
            (values[metric], other[metric])
            for name, values in ours["by_hole"].items()
            if metric in values and metric in (other := theirs["by_hole"].get(name, {}))
        ]
        if pairs:
            difference = paired_difference(*zip(*pairs, strict=True))
            found.append({"metric": metric, "n_holes": len(pairs), **_json(difference)})
    return found


def _json(difference: Difference) -> dict[str, Any]:
    return {
        "difference": difference.mean,
        "low": difference.low,
        "high": difference.high,
        "is_evidence": difference.is_evidence,
    }


def ladder_tables(report: Mapping[str, Any]) -> list[Table]:
    """Return what the command line shows."""
    tables = [_bit_table(report)]
    if any("holes" in rung for rung in report["rungs"]):
        tables.append(
            (
                "Holes of all kinds, in %; differences from the first rung, in points [95 %]",
                ["rung", "holes", "non-empty", "accepted", "metric", "of", "%", "difference"],
                list(_hole_rows(report)),
            )
        )
    if any("pass_at_1" in rung for rung in report["rungs"]):
        tables.append(
            (
                f"HumanEval, {report['settings']['problems']} problems, a sample at 0.2, in %",
                ["rung", "pass@1", "95 %", "difference"],
                [
                    [
                        rung["rung"],
                        f"{100 * rung['pass_at_1']:.1f}",
                        " to ".join(f"{100 * bound:.1f}" for bound in rung["pass_interval"]),
                        _difference(rung["pass_difference"])
                        if "pass_difference" in rung
                        else "",
                    ]
                    for rung in report["rungs"]
                    if "pass_at_1" in rung
                ],
            )
        )
    if report["unavailable"]:
        rows = [[row["precision"], row["reason"]] for row in report["unavailable"]]
        tables.append(("Not measured", ["precision", "why"], rows))
    return tables


def _bit_table(report: Mapping[str, Any]) -> Table:
    rungs = report["rungs"]
    positions = [row["positions"] for row in rungs[0]["bits"]] if rungs else []
    stored = report["bits_per_weight_stored"]
    claim = "" if report["is_claim"] else (
        f"\nThe checkpoint itself has {stored:.1f} bits a weight: this shows what packing it "
        "anew costs, not what quantizing the original weights would. It is no claim."
    )  # fmt: skip
    return (
        "Bits for each byte, and how much more than the first rung, by the tokens before"
        f" [95 %]{claim}",
        ["rung", "MB", "bits per byte", "same best token", *positions],
        [
            [
                rung["rung"],
                f"{rung['megabytes']:.0f}",
                f"{rung['bits'][0]['bits_per_byte']:.4f}",
                "" if rung["same_best"] is None else f"{100 * rung['same_best']:.1f} %",
                *([_cost(cost) for cost in rung["costs"]] or [""] * len(positions)),
            ]
            for rung in rungs
        ],
    )


def _hole_rows(report: Mapping[str, Any]) -> Iterator[list[str]]:
    for rung in report["rungs"]:
        if "holes" not in rung:
            continue
        kind = next(k for k in rung["holes"]["kinds"] if k["kind"] == "all")
        found = {row["metric"]: row for row in rung.get("hole_differences", [])}
        first = [
            rung["rung"],
            str(kind["n_holes"]),
            f"{100 * kind['non_empty']:.0f}",
            f"{kind['accepted_characters']:.1f}",
        ]
        for row in kind["metrics"]:
            shown = _difference(found[row["metric"]]) if row["metric"] in found else ""
            mean = f"{100 * row['mean']:.1f}"
            yield [*first, row["metric"], str(row["n_holes"]), mean, shown]
            first = [""] * 4


def _difference(found: Mapping[str, Any]) -> str:
    return Difference(found["difference"], found["low"], found["high"]).text()


def _cost(cost: Mapping[str, Any]) -> str:
    low, high = cost["interval"]
    if cost["n_files"] == 1:
        return f"{100 * cost['rise']:+.2f} % in one file"
    shown = f"{100 * cost['rise']:+.2f} % [{100 * low:+.2f}, {100 * high:+.2f}]"
    return f"{shown} no evidence" if low <= 0 <= high else shown
