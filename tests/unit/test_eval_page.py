"""The page of several runs, from hand-made figures."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lsp_server.__main__ import main
from model_eval.hole_scores import EXACT, NAMES, PARSES
from model_eval.page_sections import KINDS, run_names, sections

SETTINGS = {
    "model": "Salesforce/codegen-350M-mono",
    "precision": "int8",
    "device": "cpu",
    "weights_sha256": "c0ffee" * 8,
    "codegen_lsp_version": "0.1.0",
    "seed": 0,
}


def holes(model: str, exact: list[float]) -> dict[str, Any]:
    """Return the figures of a run over holes."""
    mean = sum(exact) / len(exact)
    metric = {"metric": EXACT, "n_holes": len(exact), "mean": mean, "interval": [0.1, 0.9]}
    kind = {"kind": "all", "n_holes": len(exact), "non_empty": 0.75, "n_late": 0}
    return {
        "settings": {
            **SETTINGS,
            "evaluation": "holes",
            "model": model,
            "project": "<tiny>",
            "project_sha256_of_files": "1",
            "holes": len(exact),
        },
        "holes": {
            "kinds": [
                {**kind, "accepted_characters": 3.25, "metrics": [{**metric, "stub": None}]}
            ],
            "n_repeated": 4,
            "n_same": 4,
            "by_hole": {str(n): {EXACT: value} for n, value in enumerate(exact)},
        },
    }


def bits(kv_cache: str, value: float) -> dict[str, Any]:
    """Return the figures of a run over source text."""
    row = {"positions": "all", "bits_per_byte": value, "interval": [value, value]}
    return {
        "settings": {
            **SETTINGS,
            "evaluation": "perplexity",
            "kv_cache": kv_cache,
            "source": "a",
            "files": 2,
            "window": 2048,
            "stride": 1024,
        },
        "bits": {
            "positions": [
                {**row, "perplexity": 9.0, "n_files": 2, "n_bytes": 9, "n_tokens": 3}
            ],
            "by_file": {"a.py": [value, 1], "b.py": [2 * value, 2]},
        },
    }


def mtpb(mode: str) -> dict[str, Any]:
    """Return the figures of a run of the Multi-Turn Programming Benchmark."""
    arm = {"pass_rate": 0.2, "interval": [0.1, 0.3], "n_passed": 2, "n": 10}
    arm |= {"non_empty": 0.9, "mean_characters": 40.0, "raised": 0.1, "out_of_time": 0.0}
    difference = {"difference": 0.1, "low": -0.1, "high": 0.3, "is_evidence": False}
    extra: dict[str, Any] = {"differences": []}
    if mode == "clean":
        extra = {
            "baseline": "block",
            "against": [{"arm": "block", **difference}],
            "groups": [],
        }
    return {
        "settings": {
            **SETTINGS,
            "evaluation": "mtpb",
            "mode": mode,
            "problems": 115,
            "samples": 40,
            "temperature": 0.2,
            "top_p": 0.95,
        },
        "n_cases": 10,
        "n_problems": 2,
        "n_samples": 10,
        "arms": [{"arm": name, **arm, "missing_modules": []} for name in ("multi", "block")],
        "problems": [
            {"problem": p, "n_turns": 3, "pass_rates": {"multi": 0.2, "block": 0.1}}
            for p in ("1", "2")
        ],
        "turns": [],
        **extra,
    }


def humaneval(temperatures: tuple[float, ...], samples: int) -> dict[str, Any]:
    """Return the figures of a run of HumanEval."""
    at = {"rate": 0.5, "interval": [0.4, 0.6]}
    row = {"n_problems": 164, "n": 164, "n_passed": 82, "pass_at": {"1": at}, "non_empty": 0.9}
    row |= {"mean_characters": 50.0, "out_of_time": 0.0}
    settings = {"evaluation": "humaneval", "problems": 164, "samples": samples, "top_p": 0.95}
    return {
        "settings": {**SETTINGS, **settings, "temperatures": list(temperatures)},
        "temperatures": [{"temperature": t, **row} for t in temperatures],
        "best": {"1": {"temperature": temperatures[0], **at}},
        "problems": [{"problem": "HumanEval/0", "passed": {"0.2": 1}}],
    }


def prompts() -> dict[str, Any]:
    """Return the figures of prompts' perplexity."""
    row = {"perplexity": 9.0, "passed": 8.0, "failed": None, "n_passed": 3, "auc": 0.7}
    rows = [{"turns": t, **row, "auc_interval": [0.65, 0.8], "n_mixed": 9} for t in ("multi",)]
    figures = {"n_problems": 9, "n_samples": 20, "ratio": 0.9, "ratio_interval": [0.8, 1.1]}
    return {
        "settings": {**SETTINGS, "evaluation": "prompt perplexity"},
        "prompts": {**figures, "rows": rows, "is_evidence": True, "threshold": 5.0},
    }


def precisions() -> dict[str, Any]:
    """Return the figures of a ladder of a checkpoint that was quantized before."""
    row = {"positions": "all", "bits_per_byte": 1.0, "interval": [1, 1], "perplexity": 9.0}
    base = {"precision": "fp32", "kv_cache": "float", "megabytes": 4.0, "bits": [row]}
    cost = {"positions": "all", "rise": 0.01, "interval": [-0.01, 0.02], "n_files": 3}
    return {
        "settings": {**SETTINGS, "evaluation": "precisions"},
        "bits_per_weight_stored": 4.9,
        "is_claim": False,
        "rungs": [
            {"rung": "fp32", **base, "same_best": 1.0, "costs": []},
            {"rung": "int8", **base, "same_best": 0.9, "costs": [cost]},
        ],
        "unavailable": [{"precision": "fp16", "reason": "the CPU has none"}],
    }


def steering() -> dict[str, Any]:
    """Return the figures of a run of steering, which say less of themselves."""
    result = {"places": "reads", "temperature": 0.2, "metric": "name exists", "n_cases": 4}
    difference = {"difference": 0.2, "interval": [0.1, 0.3]}
    return {
        "settings": dict(SETTINGS),
        "results": [
            {**result, "arm": "plain", "best_of": [0.5]},
            {**result, "arm": "all", "best_of": [0.7], **difference},
        ],
        "goals": [],
    }


REPORTS = [
    holes("one", [0, 1, 1, 0]),
    holes("two", [1, 1, 1, 0]),
    bits("float32", 1.0),
    bits("int8", 1.01),
    mtpb("clean"),
    mtpb("faithful"),
    humaneval((0.2,), 1),
    prompts(),
    precisions(),
    steering(),
]


class _Reader(HTMLParser):
    """Fails where elements are not closed in order; keeps what links to elsewhere."""

    void = frozenset(("meta", "br", "line", "circle"))

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take an element."""
        self.links += [name for name, _ in attrs if name in ("src", "href", "xlink:href")]
        if tag not in self.void:
            self.opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close the newest."""
        if tag not in self.void:
            assert self.opened.pop() == tag


def page(folder: Path, reports: list[dict[str, Any]]) -> str:
    """Write figures as runs do, and return the page of them."""
    paths = []
    for number, report in enumerate(reports):
        path = folder / f"{number}.jsonl"
        path.with_suffix(".json").write_text(json.dumps(report))
        paths.append(str(path))
    output = folder / "out" / "page.html"
    assert main(["eval", "report", *paths, "--output", str(output)]) == 0
    return output.read_text("utf-8")


def test_every_kind_of_run_has_its_section(tmp_path: Path) -> None:
    """The page is whole, holds all runs, escapes names, and asks for nothing from outside."""
    text = page(tmp_path, REPORTS)
    reader = _Reader()
    reader.feed(text)
    assert not reader.opened
    assert not reader.links
    assert not re.search(r"https?:|url\(|@import|<script", text)
    assert text.count("<h2>") == len(KINDS)
    assert "&lt;tiny&gt;" in text
    assert "<tiny>" not in text
    assert "nan" not in re.sub(r"[a-z]*nan[a-z]+", "", text)


def test_what_is_no_difference_says_so(tmp_path: Path) -> None:
    """An interval that holds 0 is called no evidence, one that does not is not."""
    (section,) = sections([holes("one", [0, 1, 1, 0]), holes("two", [1, 1, 1, 0])])
    (_, _, rows) = section.tables[-1]
    assert rows == [[EXACT, "4", "+25.0 [+0.0, +75.0] no evidence"]]
    (section,) = sections([bits("float32", 1.0), bits("int8", 1.01)])
    (rise,) = section.plots[-1].dots
    assert (rise.low, rise.high) == pytest.approx((1.0, 1.0))
    assert "no evidence" not in page(tmp_path, [bits("float32", 1.0), bits("int8", 1.01)])


def test_beside_what_is_right_stands_what_was_answered(tmp_path: Path) -> None:
    """A model that is silent where it is unsure cannot look better unseen."""
    text = page(tmp_path, [holes("one", [1, 0])])
    assert "75 % non-empty, 3.2 characters" in text


def test_the_papers_figures_are_lines_where_the_protocol_is_the_same() -> None:
    """Only the published script's way of several turns has one, on all problems."""
    (clean,) = sections([mtpb("clean")])
    (faithful,) = sections([mtpb("faithful")])
    assert not clean.plots[0].marks
    (mark,) = faithful.plots[0].marks
    assert mark.is_published
    assert mark.value == pytest.approx(16.98)
    assert "Nijkamp" in mark.label
    fewer = mtpb("faithful")
    fewer["settings"]["problems"] = 10
    assert not sections([fewer])[0].plots[0].marks


def test_the_papers_pass_at_k_needs_its_samples() -> None:
    """One sample at one temperature is another protocol than the best of three."""
    (ours,) = sections([humaneval((0.2,), 1)])
    (theirs,) = sections([humaneval((0.2, 0.6, 0.8), 200)])
    assert not ours.plots[0].marks
    assert [mark.value for mark in theirs.plots[0].marks] == pytest.approx(
        [12.76, 23.11, 35.19]
    )


def test_runs_on_other_holes_are_not_compared() -> None:
    """A difference is paired, or there is none."""
    other = holes("two", [1, 1, 1, 0])
    other["settings"]["project_sha256_of_files"] = "2"
    (section,) = sections([holes("one", [0, 1, 1, 0]), other])
    assert len(section.tables) == 2


def test_names_tell_runs_apart() -> None:
    """A run is called by its model, its precision and its cache."""
    assert run_names([bits("float32", 1), bits("int8", 1)]) == [
        "codegen-350M-mono int8",
        "codegen-350M-mono int8 int8 cache",
    ]


def test_runs_that_differ_in_nothing_that_is_named_get_numbers() -> None:
    """Two runs of one model have two names, on the page and in its legends."""
    runs = [holes("a", [1.0]), bits("float32", 1.0), holes("a", [0.5]), holes("b", [0.5])]
    first, other, second, third = run_names(runs)
    assert (first, second) == ("a int8 (1)", "a int8 (2)")
    assert (other, third) == ("codegen-350M-mono int8", "b int8")


def test_a_long_label_has_room(tmp_path: Path) -> None:
    """A label ends where the plot begins, and does not begin left of the page."""
    own = holes("one", [1, 0])
    own["holes"]["kinds"][0]["kind"] = "what is missing after the third word of a statement"
    labels = re.findall(r'class="label" x="(\d+)"[^>]*>(.*?)</text>', page(tmp_path, [own]))
    assert labels
    for x, label in labels:
        assert int(x) > 6 * len(re.sub("<[^>]*>", "", label))


@pytest.mark.parametrize("text", [None, "{", "[]", '{"settings": {"evaluation": "x"}}'])
def test_what_is_no_run_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None
) -> None:
    """It is named in one line, with what to do where a run is not at its end."""
    path = tmp_path / "run.jsonl"
    if text is not None:
        path.with_suffix(".json").write_text(text)
    assert main(["eval", "report", str(path), "--output", str(tmp_path / "a.html")]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "again" in message or "cannot be read" in message or "no figures" in message
    assert not (tmp_path / "a.html").exists()


def test_nothing_but_these_measures() -> None:
    """The names that figures are found by are the ones that runs write."""
    assert (EXACT, PARSES, NAMES) == ("exact match", "parses", "names resolve")
