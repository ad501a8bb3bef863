"""What a page says of runs of each evaluation: plots, differences, and their tables; pure.

Runs of one evaluation stand side by side. Where two were of the same problems, files or
holes, their difference is paired.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from model_eval import humaneval, mtpb_report, report
from model_eval.bits import file_costs
from model_eval.hole_scores import METRICS
from model_eval.mtpb import MULTI, SINGLES
from model_eval.page import Dot, Mark, Plot, Section
from model_eval.paper import PAPER, pass_at_k, pass_rate
from model_eval.precisions import hole_differences, ladder_tables
from model_eval.prompt_perplexity import LEAST_AUC
from model_eval.scores import paired_difference
from model_eval.source_tables import bit_tables, hole_tables, prompt_tables

Report = Mapping[str, Any]
Table = mtpb_report.Table
STEERING = "steering"


def kind_of(settings: Mapping[str, Any]) -> str:
    """Return which evaluation a run is of."""
    return str(settings.get("evaluation", STEERING))


def run_names(reports: Sequence[Report]) -> list[str]:
    """Return a short name for each run, which tells it from others of the same evaluation."""
    names: list[str] = []
    for own in reports:
        settings = own["settings"]
        words = [str(settings["model"]).rpartition("/")[2], settings.get("precision", "")]
        words.append("int8 cache" if settings.get("kv_cache") == "int8" else "")
        words.append("faithful" if settings.get("mode") == "faithful" else "")
        names.append(" ".join(filter(None, words)))
    runs = [(kind_of(own["settings"]), name) for own, name in zip(reports, names, strict=True)]
    return [
        name if runs.count(run) == 1 else f"{name} ({runs[: index + 1].count(run)})"
        for index, (name, run) in enumerate(zip(names, runs, strict=True))
    ]


def runs_table(reports: Sequence[Report]) -> Table:
    """Return what was run."""
    rows = []
    for name, own in zip(run_names(reports), reports, strict=True):
        settings = own["settings"]
        rows.append(
            [
                name,
                kind_of(settings),
                str(settings.get("device", "")),
                str(settings.get("weights_sha256", ""))[:12],
                str(settings.get("codegen_lsp_version", "")),
                str(settings.get("samples", "")),
                str(settings.get("seed", "")),
            ]
        )
    header = ["run", "evaluation", "device", "weights", "version", "samples", "seed"]
    return "Runs", header, rows


def sections(reports: Sequence[Report]) -> list[Section]:
    """Return a section for each evaluation that there are runs of."""
    found = []
    for kind, make in _MAKERS.items():
        own = [r for r in reports if kind_of(r["settings"]) == kind]
        if own:
            found.append(make(own))
    return found


def _mtpb(reports: Sequence[Report]) -> Section:
    section = Section(
        "Several turns against a single one",
        "The Multi-Turn Programming Benchmark: the share of programs that print the right "
        "answer, a mean over problems.",
    )
    names = run_names(reports)
    rates, gains, marks = [], [], []
    for run, own in enumerate(reports):
        for arm in own["arms"]:
            note = f"{100 * arm['non_empty']:.0f} % non-empty"
            rates.append(_percent(arm["arm"], run, arm["pass_rate"], arm["interval"], note))
        for row in own.get("against", ()):
            gains.append(_difference(row["arm"], run, row))
        if (published := pass_rate(own["settings"])) is not None:
            marks.append(
                Mark(100 * published, f"{PAPER}: {own['settings']['model']}", is_published=True)
            )
        section.tables += _named(names, run, mtpb_report.tables(own))
    section.plots = [
        Plot("Pass rate", "% of cases, mean over problems", rates, names, marks),
        Plot("Several turns less a single one", "points", gains, names, is_difference=True),
    ]
    for arm in (MULTI, *SINGLES):
        section.tables += _paired(names, reports, f"Pass rate, {arm}", _rates_of(arm))
    return section


def _rates_of(arm: str) -> Callable[[Report], dict[str, float]]:
    return lambda own: {
        row["problem"]: row["pass_rates"][arm]
        for row in own["problems"]
        if arm in row["pass_rates"]
    }


def _humaneval(reports: Sequence[Report]) -> Section:
    section = Section(
        "HumanEval",
        "The share of functions of which at least one of k samples passes the tests, by the "
        "unbiased estimate, at each temperature and at the best of each k.",
    )
    names = run_names(reports)
    dots, marks = [], []
    for run, own in enumerate(reports):
        non_empty = {row["temperature"]: row["non_empty"] for row in own["temperatures"]}
        best = [(k, row["temperature"], row, "best, ") for k, row in own["best"].items()]
        rows = [
            (k, row["temperature"], found, "")
            for row in own["temperatures"]
            for k, found in row["pass_at"].items()
        ]
        for k, temperature, found, word in [*rows, *(best if len(non_empty) > 1 else [])]:
            note = f"{100 * non_empty[temperature]:.0f} % non-empty"
            label = f"pass@{k}, {word or f'T={temperature}'}".removesuffix(", ")
            dots.append(_percent(label, run, found["rate"], found["interval"], note))
        marks += [
            Mark(
                100 * rate, f"{PAPER}: {own['settings']['model']}, pass@{k}", is_published=True
            )
            for k, rate in pass_at_k(own["settings"]).items()
        ]
        section.tables += _named(names, run, humaneval.tables(own))
    section.plots = [Plot("pass@k", "% of functions", dots, names, marks)]
    section.tables += _paired(names, reports, "pass@1, first temperature", _passes_of)
    return section


def _passes_of(own: Report) -> dict[str, float]:
    n_samples = own["settings"]["samples"]
    return {
        row["problem"]: next(iter(row["passed"].values())) / n_samples
        for row in own["problems"]
        if row["passed"]
    }


def _holes(reports: Sequence[Report]) -> Section:
    section = Section(
        "Holes in a project",
        "Code was taken away and the real language server asked, as an editor asks. Parses, "
        "names and tests are counted of the holes that fail when they stay empty.",
    )
    names = run_names(reports)
    dots: dict[str, list[Dot]] = {metric: [] for metric in METRICS}
    for run, own in enumerate(reports):
        for kind in own["holes"]["kinds"]:
            for row in kind["metrics"]:
                note = (
                    f"{100 * kind['non_empty']:.0f} % non-empty, "
                    f"{kind['accepted_characters']:.1f} characters"
                )
                dot = _percent(kind["kind"], run, row["mean"], row["interval"], note)
                dots[row["metric"]].append(dot)
        section.tables += _named(names, run, hole_tables(own))
    section.plots = [Plot(metric.capitalize(), "%", own, names) for metric, own in dots.items()]
    base = reports[0]
    for name, own in zip(names[1:], reports[1:], strict=True):
        if _same(base, own, "project_sha256_of_files", "holes", "seed", values=("settings",)):
            rows = [
                [row["metric"], str(row["n_holes"]), _shown(row)]
                for row in hole_differences(own["holes"], base["holes"])
            ]
            title = f"{name} less {names[0]}, on the holes that both count"
            section.tables.append((title, ["metric", "holes", "points [95 %]"], rows))
    return section


def _bits(reports: Sequence[Report]) -> Section:
    section = Section(
        "Bits for each byte of source",
        "How much the model has to be told of each byte; fewer is better. The tokens before "
        "are what it has read when it is asked for the next one.",
    )
    names = run_names(reports)
    dots = []
    for run, own in enumerate(reports):
        for row in own["bits"]["positions"]:
            low, high = row["interval"]
            note = f"{row['n_files']} files"
            dots.append(Dot(row["positions"], run, row["bits_per_byte"], low, high, note))
        section.tables += _named(names, run, bit_tables(own))
    section.plots = [
        Plot(
            "Bits per byte", "by the tokens before", dots, names, digits=3, starts_at_zero=False
        )
    ]
    base, keys = reports[0], ("source_sha256_of_files", "window", "stride")
    rises = []
    for run, (name, own) in enumerate(zip(names, reports, strict=True)):
        if run and _same(base, own, *keys, values=("settings",)):
            cost = file_costs(own["bits"]["by_file"], base["bits"]["by_file"])
            low, high = (100 * bound for bound in cost["interval"])
            rises.append(Dot(name, run, 100 * cost["rise"], low, high))
    section.plots.append(
        Plot(f"More than {names[0]}, same files", "%", rises, digits=2, is_difference=True)
    )
    return section


def _prompts(reports: Sequence[Report]) -> Section:
    section = Section(
        "Perplexity of prompts",
        "How often, of a failed and a passed program of the same problem, the failed one's "
        "prompts surprise the model more. Half is chance; from 0.6 on a threshold is of use.",
    )
    names = run_names(reports)
    dots = []
    for run, own in enumerate(reports):
        for row in own["prompts"]["rows"]:
            if row["auc"] is not None:
                low, high = row["auc_interval"]
                note = f"{row['n_mixed']} problems"
                dots.append(Dot(row["turns"], run, row["auc"], low, high, note))
        section.tables += _named(names, run, prompt_tables(own))
    marks = [Mark(0.5, "chance"), Mark(LEAST_AUC, "0.6")]
    plot = Plot("AUC within problems", "", dots, names, marks, digits=3, starts_at_zero=False)
    section.plots = [plot]
    return section


def _precisions(reports: Sequence[Report]) -> Section:
    section = Section("What a smaller precision costs", "")
    names = run_names(reports)
    costs = []
    for run, (name, own) in enumerate(zip(names, reports, strict=True)):
        for rung in own["rungs"]:
            for cost in rung["costs"]:
                low, high = (100 * bound for bound in cost["interval"])
                label = f"{rung['rung']}, {cost['positions']}"
                costs.append(Dot(label, run, 100 * cost["rise"], low, high))
        section.tables += _named(names, run, ladder_tables(own))
        if not own["is_claim"]:
            section.text = (
                f"{name} was stored with {own['bits_per_weight_stored']:.1f} bits a weight: "
                "it shows what packing anew costs, and is no claim about the original weights."
            )
    unit = "% above the first rung, by the tokens before"
    section.plots = [Plot("Bits per byte", unit, costs, names, digits=2, is_difference=True)]
    return section


def _steering(reports: Sequence[Report]) -> Section:
    section = Section(
        "Steering by known names",
        "What sampling only names that are known to exist changes, at the first sample, where "
        "a name is read.",
    )
    names = run_names(reports)
    dots = []
    for run, own in enumerate(reports):
        for row in own["results"]:
            if row["places"] == "reads" and "difference" in row:
                label = f"{row['metric']}, {row['arm']}, T={row['temperature']}"
                low, high = (100 * bound for bound in row["interval"])
                dots.append(Dot(label, run, 100 * row["difference"], low, high))
        for title, (header, *rows) in {
            "What is to be reached, in %": report.goal_rows(own),
            "Where a name is read, in %": report.result_rows(own, "reads"),
        }.items():
            section.tables += _named(names, run, [(title, list(header), rows)])
    section.plots = [Plot("Difference from plain", "points", dots, names, is_difference=True)]
    return section


_MAKERS: dict[str, Callable[[Sequence[Report]], Section]] = {
    "humaneval": _humaneval,
    "mtpb": _mtpb,
    "prompt perplexity": _prompts,
    "holes": _holes,
    "perplexity": _bits,
    "precisions": _precisions,
    STEERING: _steering,
}
KINDS = tuple(_MAKERS)


def _paired(
    names: Sequence[str],
    reports: Sequence[Report],
    title: str,
    values_of: Callable[[Report], Mapping[str, float]],
) -> list[Table]:
    """Return how the other runs differ from the first on the problems that both have."""
    base, rows = values_of(reports[0]), []
    for name, own in zip(names[1:], map(values_of, reports[1:]), strict=True):
        shared = sorted(base.keys() & own.keys())
        if shared:
            found = paired_difference([own[k] for k in shared], [base[k] for k in shared])
            rows.append([name, str(len(shared)), found.text()])
    if not rows:
        return []
    return [(f"{title}: less {names[0]}", ["run", "problems", "points [95 %]"], rows)]


def _same(one: Report, other: Report, *keys: str, values: Sequence[str]) -> bool:
    return all(one[v].get(key) == other[v].get(key) for v in values for key in keys)


def _named(names: Sequence[str], run: int, tables: Sequence[Table]) -> list[Table]:
    """Return tables with the run's name in their titles, where there are several runs."""
    if len(names) == 1:
        return list(tables)
    return [(f"{names[run]}: {title}", header, rows) for title, header, rows in tables]


def _percent(
    label: str, run: int, value: float, interval: Sequence[float], note: str = ""
) -> Dot:
    low, high = interval
    return Dot(label, run, 100 * value, 100 * low, 100 * high, note)


def _difference(label: str, run: int, row: Mapping[str, Any]) -> Dot:
    return _percent(label, run, row["difference"], (row["low"], row["high"]))


def _shown(row: Mapping[str, Any]) -> str:
    low, high = 100 * row["low"], 100 * row["high"]
    shown = f"{100 * row['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"
    return shown if row["is_evidence"] else f"{shown} no evidence"
