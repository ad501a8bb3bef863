"""Draws the peer benchmark: time per token, and share of the memory's limit; PNG and SVG."""

# mypy: disable-error-code="import-not-found, import-untyped"

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.report import AS_IS, CONTEXTS, LLAMA, OURS, Engine, Report, Result, decode

_COLOURS = {
    ("ours", "fp32"): "#08519c",
    ("ours", "int8"): "#3182bd",
    ("ours", "int4"): "#6baed6",
    ("transformers", "fp32"): "#636363",
    ("optimum-onnx", "fp32"): "#31a354",
    ("ctranslate2", "int8"): "#e6550d",
    ("openvino", "int8"): "#756bb1",
    ("openvino", "int4"): "#c51b8a",
    (LLAMA, AS_IS): "#8c510a",
    (LLAMA, "q4_0"): "#bf812d",
    (LLAMA, "q8_0"): "#dfc27d",
}
_LINES = {"float32": "-", "float16": ":", "int8": "--"}


def draw(report: Report, folder: Path) -> list[Path]:
    """Write both plots into ``folder`` and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    machine = f"{report.machine['cpu']}, {report.machine['n_threads']} threads"

    def milliseconds(result: Result, context: int) -> float | None:
        seconds = result.median(decode(context))
        return None if seconds is None else 1e3 * seconds

    def percent(result: Result, context: int) -> float | None:
        share = report.share(result, context)
        return None if share is None else 100 * share

    limit = f"share of the limit by {report.bandwidth / 1e9:.0f} GB/s, %"
    return [
        *_draw(report, folder / "time-per-token", machine, "ms per token", milliseconds),
        *_draw(report, folder / "share-of-bandwidth", machine, limit, percent),
    ]


def _draw(
    report: Report,
    path: Path,
    title: str,
    what: str,
    value: Callable[[Result, int], float | None],
) -> list[Path]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    for result in [*report.peers(), *report.ours()]:
        points = [(c, v) for c in CONTEXTS if (v := value(result, c)) is not None]
        if points:
            contexts, values = zip(*points, strict=True)
            axes.plot(contexts, values, label=result.engine.label, **_style(result.engine))
    axes.set(title=title, xlabel="context, tokens", ylabel=what, ylim=(0, None))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small", frameon=False)
    written = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    for file in written:
        figure.savefig(file, dpi=150)
    pyplot.close(figure)
    return written


def _style(engine: Engine) -> dict[str, Any]:
    return {
        "color": _COLOURS[engine.name, engine.precision],
        "linestyle": _LINES[engine.kv_type],
        "linewidth": 2.2 if engine.name == OURS else 1.4,
        "marker": "o" if engine.name == OURS else "x" if engine.has_flash_attention else ".",
    }
