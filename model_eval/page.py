"""A page of one or several runs: text, tables and small plots in one file; pure.

It needs nothing from anywhere: styles and plots are in it, in the reader's light or dark.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from string import Template

from model_eval.mtpb_report import Table

_WIDTH, _LABEL, _NOTE, _ROW, _TOP = 880, 270, 245, 22, 8
_LETTER = 5.8
"""About the width of a letter of a mark; those of a label are a tenth wider."""
_N_COLOURS = 6
_NUMBER = re.compile(
    r"[-+]?[\d,]+(\.\d+)?( ?%)?( (to|of) [-+]?[\d,]+(\.\d+)?)?( \[[^]]*\])?( no evidence)?"
)
NO_EVIDENCE = "no evidence"


@dataclass(frozen=True)
class Dot:
    """One value of a plot, with its interval of 95 %."""

    label: str
    run: int
    """Which of the runs it is of; it decides the colour."""
    value: float
    low: float
    high: float
    note: str = ""


@dataclass(frozen=True)
class Mark:
    """A vertical line of a plot."""

    value: float
    label: str
    is_published: bool = False
    """Whether others measured it."""


@dataclass(frozen=True)
class Plot:
    """Dots with intervals, one below the other."""

    title: str
    unit: str
    dots: Sequence[Dot]
    runs: Sequence[str] = ()
    """Names for a legend, where there are several."""
    marks: Sequence[Mark] = ()
    digits: int = 1
    starts_at_zero: bool = True
    is_difference: bool = False
    """Whether 0 is what the intervals are compared with."""


@dataclass
class Section:
    """What one evaluation says, of all runs of it."""

    title: str
    text: str
    plots: list[Plot] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def render(title: str, subtitle: str, runs: Table, sections: Sequence[Section]) -> str:
    """Return the page."""
    parts = "\n".join(map(_section, sections))
    return _PAGE.substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        runs=_table(runs),
        parts=parts,
        colours="\n".join(_colours()),
    )


def _colours() -> Iterator[str]:
    for n in range(_N_COLOURS):
        yield f".c{n} {{ stroke: var(--c{n}); }}"
        yield f"circle.c{n} {{ fill: var(--c{n}); stroke-width: 2; }}"
        yield f".k{n}::before {{ background: var(--c{n}); }}"


def _section(section: Section) -> str:
    plots = "\n".join(_plot(plot) for plot in section.plots if plot.dots)
    tables = "\n".join(map(_table, (table for table in section.tables if table[2])))
    text = f"<p>{escape(section.text)}</p>" if section.text else ""
    return f"<section><h2>{escape(section.title)}</h2>{text}\n{plots}\n{tables}</section>"


def _table(table: Table) -> str:
    title, header, rows = table
    is_number = [
        any(row[i] for row in rows) and all(_is_number(row[i]) for row in rows if row[i])
        for i in range(len(header))
    ]
    head = "".join(_cell("th", cell, is_number[i]) for i, cell in enumerate(header))
    body = "\n".join(
        "<tr>"
        + "".join(_cell("td", cell, is_number[i]) for i, cell in enumerate(row))
        + "</tr>"
        for row in rows
    )
    first, _, rest = title.partition("\n")
    caption = escape(first) + (f"<br><span>{escape(rest)}</span>" if rest else "")
    return (
        f'<div class="wide"><table><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _is_number(cell: str) -> bool:
    return _NUMBER.fullmatch(cell) is not None


def _cell(kind: str, cell: str, is_number: bool) -> str:
    css = ' class="number"' if is_number else ""
    text = escape(cell).replace(NO_EVIDENCE, f'<span class="weak">{NO_EVIDENCE}</span>')
    return f"<{kind}{css}>{text}</{kind}>"


def _plot(plot: Plot) -> str:
    values = [v for dot in plot.dots for v in (dot.low, dot.high, dot.value)]
    values += [mark.value for mark in plot.marks]
    lowest, highest = min(values), max(values)
    if plot.starts_at_zero:
        lowest, highest = min(lowest, 0.0), max(highest, 0.0)
    if highest == lowest:
        highest += 1.0
    span = highest - lowest
    if not plot.starts_at_zero or lowest < 0:
        lowest -= 0.04 * span
    highest += 0.04 * span
    n_letters = max(len(f"{dot.label} {dot.note}") for dot in plot.dots)
    left, right = max(_LABEL, 1.1 * _LETTER * n_letters + 16), _WIDTH - _NOTE
    n_marks = sum(bool(mark.label) for mark in plot.marks)
    top = _TOP + 14 * n_marks
    places: dict[str, int] = {}
    for dot in plot.dots:
        places.setdefault(dot.label, len(places))
    bottom = top + _ROW * len(plot.dots)

    def x(value: float) -> float:
        return left + (right - left) * (value - lowest) / (highest - lowest)

    parts = [
        f'<line class="tick" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="{top - 4}" y2="{bottom}"/>'
        f'<text class="axis" x="{x(t):.1f}" y="{bottom + 15}">{_shown_tick(t)}</text>'
        for t in _ticks(lowest, highest)
    ]
    if plot.is_difference:
        zero = f"{x(0):.1f}"
        parts.append(
            f'<line class="zero" x1="{zero}" x2="{zero}" y1="{top - 4}" y2="{bottom}"/>'
        )
    for index, mark in enumerate(plot.marks):
        css, y = ("paper" if mark.is_published else "mark"), 14 * (index + 1) + 6
        at = f"{x(mark.value):.1f}"
        fits = x(mark.value) + _LETTER * len(mark.label) < _WIDTH
        anchor = "start" if fits else "end"
        shift = -4 if anchor == "end" else 4
        parts.append(f'<line class="{css}" x1="{at}" x2="{at}" y1="{y - 8}" y2="{bottom}"/>')
        parts.append(
            f'<text class="{css}" x="{x(mark.value) + shift:.1f}" y="{y}" '
            f'text-anchor="{anchor}">{escape(mark.label)}</text>'
        )
    by_label = sorted(plot.dots, key=lambda dot: (places[dot.label], dot.run))
    for row, dot in enumerate(by_label):
        parts.append(_dot(plot, dot, left, top + _ROW * row + _ROW / 2, x))
    description = escape(f"{plot.title}, {plot.unit}")
    legend = "".join(
        f'<b class="k{index % _N_COLOURS}">{escape(name)}</b>'
        for index, name in enumerate(plot.runs)
    )
    return (
        f"<figure><figcaption>{escape(plot.title)} <span>{escape(plot.unit)}</span>"
        f"{legend if len(plot.runs) > 1 else ''}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {bottom + 22}" role="img" aria-label="{description}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _dot(plot: Plot, dot: Dot, left: float, y: float, x: Callable[[float], float]) -> str:
    is_weak = plot.is_difference and dot.low <= 0 <= dot.high
    low, high = (f"{bound:.{plot.digits}f}" for bound in (dot.low, dot.high))
    sign = "+" if plot.is_difference else ""
    shown = f"{dot.value:{sign}.{plot.digits}f} [{low}, {high}]"
    note = f'<tspan class="weak"> {NO_EVIDENCE}</tspan>' if is_weak else ""
    css = f"c{dot.run % _N_COLOURS}"
    fill = " hollow" if is_weak else ""
    detail = f'<tspan class="weak"> {escape(dot.note)}</tspan>' if dot.note else ""
    label = f"{escape(dot.label)}{detail}"
    return (
        f'<text class="label" x="{left - 10:.0f}" y="{y + 4:.1f}">{label}</text>'
        f'<line class="interval {css}" x1="{x(dot.low):.1f}" x2="{x(dot.high):.1f}" '
        f'y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<circle class="{css}{fill}" cx="{x(dot.value):.1f}" cy="{y:.1f}" r="4.5"/>'
        f'<text class="value" x="{_WIDTH - _NOTE + 12}" y="{y + 4:.1f}">{shown}{note}</text>'
    )


def _ticks(lowest: float, highest: float) -> list[float]:
    span = highest - lowest
    step = next(
        base * 10.0**power
        for power in range(-6, 7)
        for base in (1, 2, 5)
        if span / (base * 10.0**power) <= 6
    )
    first = int(-(-lowest // step))
    return [step * n for n in range(first, int(highest // step) + 1)]


def _shown_tick(value: float) -> str:
    return f"{value:.6g}" if abs(value) > 1e-12 else "0"


_PAGE = Template(
    """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root {
  color-scheme: light dark;
  --paper: #fdfdfc; --ink: #1c1e21; --soft: #666b73; --rule: #e2e3e0; --faint: #f3f3f0;
  --c0: #2f6f9f; --c1: #c1632b; --c2: #3f8a5a; --c3: #8a5aa8; --c4: #a8862b; --c5: #b0455f;
}
@media (prefers-color-scheme: dark) { :root {
  --paper: #16181b; --ink: #e4e5e2; --soft: #9aa0a8; --rule: #303439; --faint: #1e2125;
  --c0: #78b4e0; --c1: #eb9c68; --c2: #7fc79a; --c3: #c39be0; --c4: #dcbc66; --c5: #ea8ba2;
} }
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 3rem 1.5rem 5rem; max-width: 58rem;
  background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
}
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.25rem; margin: 3.2rem 0 .4rem; padding-top: 1rem;
  border-top: 1px solid var(--rule); }
p { max-width: 46rem; margin: .4rem 0 1rem; }
header p, .weak { color: var(--soft); }
figure { margin: 1.6rem 0; }
figcaption, caption { text-align: left; font-weight: 600; font-size: .92rem; padding: .3rem 0; }
figcaption span, caption span { color: var(--soft); font-weight: 400; }
figcaption b { font-weight: 400; margin-left: 1.2rem; white-space: nowrap; }
figcaption b::before { content: ""; display: inline-block; width: .6rem; height: .6rem;
  border-radius: 50%; margin-right: .35rem; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--ink); font-size: 12px; font-variant-numeric: tabular-nums; }
svg .label { text-anchor: end; }
svg .axis { text-anchor: middle; fill: var(--soft); font-size: 11px; }
svg .weak { fill: var(--soft); }
.tick { stroke: var(--rule); } .zero { stroke: var(--ink); stroke-width: 1.2; }
line.mark { stroke: var(--soft); stroke-dasharray: 2 3; }
svg text.mark { fill: var(--soft); font-size: 11px; }
line.paper { stroke: var(--c5); stroke-width: 1.4; stroke-dasharray: 6 3; }
svg text.paper { fill: var(--c5); font-size: 11px; }
.interval { stroke-width: 2.4; stroke-linecap: round; opacity: .55; }
$colours
circle.hollow { fill: var(--paper); }
.wide { overflow-x: auto; margin: 1.4rem 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums;
  min-width: 60%; }
th, td { text-align: left; padding: .28rem .9rem .28rem 0; vertical-align: baseline;
  white-space: nowrap; }
th { font-weight: 500; color: var(--soft); border-bottom: 1px solid var(--rule); }
td { border-bottom: 1px solid var(--faint); }
.number { text-align: right; }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem; }
</style>
</head>
<body>
<header><h1>$title</h1><p>$subtitle</p></header>
$runs
$parts
<footer>
<p>Intervals are of 95 %, by bootstrap: of problems, or of whole files. Where the interval of a
difference holds 0 nothing shows that there is one, and its dot is hollow. An empty answer is
never a success. Dashed lines that name the paper are what others published, not what was
measured here; a figure of the paper is drawn only where the protocol is the same.</p>
</footer>
</body>
</html>
"""
)
