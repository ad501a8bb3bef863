"""Draws each metric against how many samples may be tried; one SVG."""

# mypy: disable-error-code="import-not-found, import-untyped"

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model_eval.steering import ARMS, METRICS, TEMPERATURES

_COLOURS = dict(zip(ARMS, ("#636363", "#6baed6", "#74c476", "#08519c"), strict=True))
_LINES = dict(zip(ARMS, ("-", "-", "--", ":"), strict=True))


def draw(report: Mapping[str, Any], title: str, path: Path) -> None:
    """Write the plot of the places that read."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(
        len(TEMPERATURES), len(METRICS), figsize=(15, 6), layout="constrained", squeeze=False
    )
    for row, temperature in enumerate(TEMPERATURES):
        for column, metric in enumerate(METRICS):
            axes = grid[row][column]
            for result in report["results"]:
                if (result["places"], result["temperature"], result["metric"]) == (
                    "reads",
                    temperature,
                    metric,
                ):
                    values = [100 * value for value in result["best_of"]]
                    ks, arm = range(1, len(values) + 1), result["arm"]
                    axes.plot(ks, values, label=arm, color=_COLOURS[arm], ls=_LINES[arm])
                    axes.set(xticks=ks)
            axes.set(title=f"{metric}, T={temperature}", xlabel="k", ylabel="%", ylim=(0, 100))
            axes.grid(alpha=0.3)
    figure.suptitle(title)
    figure.legend(*grid[0][-1].get_legend_handles_labels(), loc="outside right upper")
    figure.savefig(path)
    pyplot.close(figure)
