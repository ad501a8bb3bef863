"""The Multi-Turn Programming Benchmark: its turns are the editor's, its verdicts are right."""

import hashlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsp_server.__main__ import main
from lsp_server.serving_model import Model
from lsp_server.synthesis import write_turn
from lsp_server.truncation import truncate
from lsp_server.turns import read_turns
from lsp_server.verdict import UNCHECKED
from model_eval import commands, mtpb
from model_eval.errors import ProblemsError
from model_eval.executing import Executions, outcomes
from model_eval.generating import Sampling
from model_eval.guest import _encoded
from model_eval.mtpb import (
    ARMS,
    BLOCK,
    CLEAN,
    DIFFERENCES,
    FAITHFUL,
    LINE,
    MULTI,
    PREFIX,
    Case,
    Problem,
    Ways,
    choose_cases,
    download_problems,
    programs_of,
    read_problems,
    sample,
    write_case,
    written_file,
)
from model_eval.mtpb_answers import PUBLISHED, Rules, is_right
from model_eval.mtpb_report import JUDGING, make_report, tables
from model_eval.records import Record
from model_eval.sandbox import Limits, Outcome, Sandbox
from tests.fakes import ScriptedEngine, fake_model

OWN = Path(__file__).parents[1] / "data" / "problems.jsonl"
PUBLISHED_FILE = Path(__file__).parents[3] / "shared" / "data" / "mtpb.jsonl"
SAMPLING = Sampling(temperature=0.2, top_p=0.95)
OURS = Rules()
PIECES = (
    *("x = 1\n", "def f():\n    return 1\n", "print(x)\n", "\n", "\n\n", "\n\n\n", "# next\n"),
    *("    # inside\n", "if x:\n    y = 2\n", "This is the code\n", "```\n", "'''doc'''\n"),
    *(
        "print(2)\n",
        "def g(): return 2\n",
        "z = ' '.join(x) .y\n",
        "é",
        "\t",
        "x",
        "\r\n",
        "  ",
    ),
)


def own_cases() -> list[Case]:
    """Return the cases of the project's own problems."""
    problems, _ = read_problems(OWN, whole=True)
    return [Case(problem, i) for problem in problems for i in range(len(problem.inputs))]


def published_problems(*, whole: bool) -> list[Problem]:
    """Return the published problems, where their file is."""
    if not PUBLISHED_FILE.is_file():
        pytest.skip("mtpb.jsonl of salesforce/CodeGen is not here")
    problems, sha256 = read_problems(PUBLISHED_FILE, whole=whole)
    assert sha256 == mtpb.PUBLISHED_SHA256
    return problems


def chance(seed: object) -> Callable[[str], str]:
    """Return a script that writes what may be cut anywhere, the same after the same text."""

    def script(prompt: str) -> str:
        data = hashlib.sha256(f"{seed}{prompt}".encode()).digest()
        return "".join(PIECES[byte % len(PIECES)] for byte in data[1 : 2 + data[0] % 9])

    return script


def calls(model: Model) -> list[str]:
    """Return the texts that the model went on from."""
    assert isinstance(model.engine, ScriptedEngine)
    return [call.prompt for call in model.engine.calls]


def by_editor(
    prompts: tuple[str, ...], script: Callable[[str], str], limit: int
) -> tuple[list[str], str, bool]:
    """Return the texts that the editor's turn code goes on from, and its file at the end.

    The file holds all prompts from the start, and the turns are written one after another,
    as a person does who asks for each. Last comes whether all of them were turns: a program
    that leaves a bracket or a string open swallows the comment that follows.
    """
    model = fake_model(script, context_length=1 << 16)
    text = PREFIX + "".join(f"# {prompt}\n\n" for prompt in prompts)
    below = len(text) - len(PREFIX)
    for prompt in prompts:
        start = len(text) - below
        turn = next((t for t in read_turns(text, "python") if t.start == start), None)
        if turn is None:
            return calls(model), text, False
        written = write_turn(
            model,
            text,
            turn,
            max_new_tokens=limit,
            check=lambda _: UNCHECKED,
            filters=False,
        )
        text = written.text
        below -= len(f"# {prompt}\n\n")
    return calls(model), text, True


def is_the_editors(case: Case, seed: object) -> bool:
    """Compare our turns with the editor's; tells whether all were turns to it."""
    model = fake_model(chance(seed), context_length=1 << 16)
    written = write_case(model, case, MULTI, CLEAN, SAMPLING, (0, case.name, 0))
    texts = [text.text for text in written]
    limit = case.problem.max_new_tokens
    prompts, file, is_whole = by_editor(case.prompts, chance(seed), limit)
    assert calls(model)[: len(prompts)] == prompts
    assert written_file(case.prompts, texts[: len(prompts)]) == file
    return is_whole


def test_the_clean_history_is_the_editors_byte_for_byte() -> None:
    """What is measured is what an editor does with check, repair and steering off."""
    whole = [is_the_editors(case, seed) for case in own_cases() for seed in range(6)]
    assert sum(whole) > 0.8 * len(whole)


def test_the_clean_history_of_the_published_problems_is_the_editors() -> None:
    """Each of their comments is a turn to the editor, and its program goes where ours goes."""
    problems = published_problems(whole=True)
    whole = [is_the_editors(Case(problem, 0), problem.id) for problem in problems[::2]]
    assert sum(whole) > 0.8 * len(whole)


@pytest.mark.parametrize("seed", range(25))
def test_the_faithful_history_is_the_published_loop(seed: int) -> None:
    """As the loop of mtpb_sample.py goes, with what transformers did to the decoded text."""
    ways = Ways(keeps_blank_lines=True)
    for case in own_cases():
        model = fake_model(chance(seed), context_length=1 << 16)
        texts = write_case(model, case, MULTI, ways, SAMPLING, (0, case.name, 0))
        history, prompts = PREFIX, []
        for prompt in case.prompts:
            history += f"# {prompt}\n"
            prompts.append(history)
            completion = chance(seed)(history).encode()[: case.problem.max_new_tokens]
            history += truncate(completion.decode("utf-8", "ignore")) + "\n\n"
        (_, program) = programs_of(case, MULTI, ways, [text.text for text in texts])[MULTI]
        assert (calls(model), program) == (prompts, history)


def test_each_difference_changes_what_it_is_named_for() -> None:
    """Each is switched on alone, and all together in the faithful mode."""
    (case,) = [case for case in own_cases() if case.name == "2.0"]
    script = "x = ' '.join(y) .z\n\n\n"

    def written(ways: Ways) -> list[str]:
        model = fake_model(script, context_length=4096)
        texts = write_case(model, case, MULTI, ways, SAMPLING, (0, case.name, 0))
        return [text.text for text in texts]

    assert written(CLEAN) == ["x = ' '.join(y) .z"] * 4
    assert written(DIFFERENCES["cleaned-up spaces"]) == ["x =''.join(y).z"] * 4
    assert written(FAITHFUL) == ["x =''.join(y).z"] * 4
    spaced = "x = 1\n\n# more"
    model, unlike = fake_model(spaced), fake_model(spaced)
    write_case(model, case, MULTI, CLEAN, SAMPLING, (0,))
    write_case(unlike, case, MULTI, DIFFERENCES["its blank lines"], SAMPLING, (0,))
    assert [
        after.count("\n") - before.count("\n")
        for before, after in zip(calls(model), calls(unlike), strict=True)
    ] == [0, 2, 4, 6]
    long = Case(Problem("long", ("a" * 3000, "b"), ({},), (None,), 8), 0)
    model = fake_model("x", context_length=2048)
    write_case(model, long, MULTI, DIFFERENCES["prompts cut at 1,024"], SAMPLING, (0,))
    assert [(len(text), text[:9]) for text in calls(model)] == [(1024, PREFIX[:9])] * 2
    model = fake_model("x", context_length=2048)
    write_case(model, long, MULTI, CLEAN, SAMPLING, (0,))
    assert calls(model)[1].endswith("# b\n")
    assert Ways(top_k=50, keeps_blank_lines=True, cleans_up=True, loses_newest=True) == FAITHFUL
    assert CLEAN.top_k == 0


def test_single_turns_hold_all_prompts_and_are_read_twice() -> None:
    """One comment line or a block; a second def is the second reading's end."""
    (case,) = [case for case in own_cases() if case.name == "1.0"]
    script = "def f():\n    return 1\ndef g():\n    return 2\nprint(f())\n# more\nx = 1\n"
    first, second, third = case.prompts
    comments = {
        LINE: f"# {first} {second} {third}\n",
        BLOCK: f"# {first}\n# {second}\n# {third}\n",
    }
    for arm, comment in comments.items():
        model = fake_model(script)
        (text,) = write_case(model, case, arm, CLEAN, SAMPLING, (0, case.name, 0))
        assert calls(model) == [PREFIX + comment]
        assert isinstance(model.engine, ScriptedEngine)
        assert model.engine.calls[0].max_new_tokens == 3 * case.problem.max_new_tokens
        programs = programs_of(case, arm, CLEAN, [text.text])
        whole, cut = script.partition("# more")[0], "def f():\n    return 1\n"
        assert programs == {
            arm: (whole, PREFIX + comment + whole),
            f"{arm} cut": (cut, PREFIX + comment + cut),
        }


def test_a_single_turns_budget_fits_the_context() -> None:
    """It has what the turns have together, or what the prompt leaves."""
    (case,) = [case for case in own_cases() if case.name == "3.0"]
    model = fake_model("x" * 5000, context_length=512)
    (text,) = write_case(model, case, BLOCK, CLEAN, SAMPLING, (0, case.name, 0))
    assert text.n_tokens == 512 - len(calls(model)[0])
    assert text.end == "limit"


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    """Return the sandbox that is here."""
    return Sandbox(Limits(time_s=1))


VERDICTS: list[tuple[str, Any, bool, bool]] = [
    # A program, the answer, whether it passes by our rules, and by the published ones.
    ("print(6)", 6, True, True),
    ("print(7)", 6, False, False),
    ("print('6')", 6, True, True),
    ("print(6.9)", 6, True, True),
    ("print(5)\nprint(6)", 6, True, True),
    ("print(6)\nprint(5)", 6, False, False),
    ("print('sum:', 6)", 6, False, False),
    ("print()", 6, False, False),
    ("", 6, False, False),
    ("x = 1\nx + 5", 6, True, True),
    ("x = 6", 6, True, True),
    ("x = 1\nx += 5", 6, False, False),
    ("def f(): return 6", 6, False, False),
    ("print(6)\n1 / 0", 6, False, True),
    ("print(6)\nwhile True: pass", 6, False, True),
    ("print(6)\nraise SystemExit", 6, False, False),
    ("print(6", 6, False, False),
    ("print([1, 2])", [1, 2], True, True),
    ("print((1, 2))", [1, 2], True, True),
    ("print([(1, 2)])", [[1, 2]], True, True),
    ("print([1, 2, 3])", [1, 2], False, False),
    ("print([0.1 + 0.2])", [0.3], True, False),
    ("print(0.1 + 0.2)", 0.3, True, True),
    ("print(0.31)", 0.3, False, False),
    ("print('0.3')", 0.3, True, True),
    ("print(range(2))", [0, 1], True, True),
    ("print(np.int64(6))", 6, True, True),
    ("print(np.arange(2))", [0, 1], True, True),
    ("print(np.float64(0.5))", 0.5, True, True),
    ("print([np.int64(1)])", [1], True, True),
    ("print(np.uint64(6))", 6, True, True),
    ("print([np.arange(2)])", [[0, 1]], False, False),
    ("print(True)", True, True, True),
    ("print('True')", True, True, True),
    ("print(1)", True, False, False),
    ("print({'a': 0.1 + 0.2})", {"a": 0.3}, True, False),
    ("print({'a': 1})", {"a": 2}, False, False),
    ("print(None)", None, True, False),
    ("print(0)", None, False, False),
    ("print(6)", "6", True, True),
    ("print(['a'])", "['a']", True, True),
    ("print(object())", [1], False, False),
    ("print(print)", 6, False, False),
]


@pytest.mark.parametrize(("program", "answer", "ours", "published"), VERDICTS)
def test_verdicts(
    sandbox: Sandbox, program: str, answer: Any, ours: bool, published: bool
) -> None:
    """Hand-made programs, most of them wrong, get the verdict of either rules."""
    source = f"import numpy as np\n{program}" if "np." in program else program
    outcome = sandbox.run(source, keeps_print=True)
    assert is_right(outcome, answer, OURS) is ours
    assert is_right(outcome, answer, PUBLISHED) is published


def test_each_rule_of_judging_is_one_difference() -> None:
    """What the published evaluation lets pass, or not, is attributed to one way of it."""
    raised = Outcome("ValueError: x", ["int", "6"])
    none, tenths = Outcome(None, ["None", None]), Outcome(None, ["list", [["float", "0.1"]]])
    expected = {
        "it failed after printing": 1,
        "no dict, no None": 2,
        "lists of floats exact": 0,
    }
    for name, rules in JUDGING.items():
        verdicts = (
            is_right(raised, 6, rules),
            not is_right(none, None, rules),
            not is_right(tenths, [0.1 + 1e-9], rules),
        )
        assert verdicts.count(True) == 1
        assert verdicts.index(True) == {0: 2, 1: 0, 2: 1}[expected[name]]


def test_a_series_is_compared_as_published() -> None:
    """With ``numpy.allclose``, whose tolerance is relative too."""
    printed = ["Series", ["list", [["float", "1000.001"], ["int", "2"]]]]
    assert is_right(Outcome(None, printed), [1000.0, 2], OURS)
    assert not is_right(Outcome(None, printed), [1001.0, 2], OURS)
    assert not is_right(Outcome(None, printed), [1000.0], OURS)
    assert not is_right(Outcome(None, printed), "1000", OURS)


def test_an_oracle_reaches_the_ceiling() -> None:
    """Of the published cases all pass that print the answer, but for dictionaries and None."""
    passed = dict.fromkeys((OURS, PUBLISHED), 0)
    problems = published_problems(whole=True)
    for problem in problems:
        for answer in problem.answers:
            outcome = Outcome(None, _encoded(answer, [0], 9))
            for rules in passed:
                passed[rules] += is_right(outcome, answer, rules)
    assert passed == {OURS: 575, PUBLISHED: 568}
    assert len(problems) == 115
    assert sum(len(problem.answers) for problem in published_problems(whole=False)) == 555


def run_oracle(cases: list[Case], mode: str, sandbox: Any, path: Path) -> dict[str, Any]:
    """Return the report on an oracle, a model that knows the answers."""

    def oracle(prompt: str) -> str:
        # What was said so far tells most cases from the others, and all of it tells each.
        said = {case.name: sum(len(p) for p in case.prompts if p in prompt) for case in cases}
        answer = max(cases, key=lambda case: said[case.name]).answer
        return f"print({answer!r})\n# that is it"

    record = Record(path, {"mode": mode})
    with Executions(sandbox, record, keeps_print=True) as executions:
        steps = sample(
            fake_model(oracle),
            cases,
            mode,
            SAMPLING,
            n_samples=1,
            seed=0,
            record=record,
            executions=executions,
        )
        assert len(list(steps)) == len(cases) * len(ARMS[mode])
        executions.finish(lambda _done, _total: None)
    return make_report(cases, mode, record.lines, outcomes(record), "")


@pytest.mark.parametrize("mode", ["clean", "faithful"])
def test_what_an_oracle_prints_passes_in_every_arm(
    mode: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    """From the comment to the verdict nothing loses a right answer."""
    cases = own_cases()[1::4]
    report = run_oracle(cases, mode, sandbox, tmp_path / "run.jsonl")
    assert {(row["n_passed"], row["n"]) for row in report["arms"]} == {(4, 4)}
    if mode == "clean":
        assert {row["is_evidence"] for row in report["against"]} == {False}
    else:
        rows = {row["difference_of"]: row for row in report["differences"]}
        assert rows["no dict, no None"]["n_lost"] == 1
        assert rows["faithful"]["rate"] == pytest.approx(3 / 4)
    for _, header, cells in tables(report):
        assert all(len(row) == len(header) for row in cells)


class FakeSandbox:
    """Says of each program the same as before, without running it."""

    isolation = "none"

    def run(self, program: str, *, keeps_print: bool) -> Outcome:
        """Let what a program prints be its length."""
        assert keeps_print
        return Outcome(None, ["int", format(len(program) % 7, "x")])


def go_on(path: Path, script: Callable[[str], str]) -> tuple[list[Any], dict[str, Any]]:
    """Return the samples of a run that goes on where its record ends, and its report."""
    cases = choose_cases(read_problems(OWN, whole=True)[0], limit=3, inputs=2, seed=0)
    record = Record(path, {"evaluation": "mtpb"})
    sandbox: Any = FakeSandbox()
    with Executions(sandbox, record, keeps_print=True) as executions:
        for _ in sample(
            fake_model(script),
            cases,
            "clean",
            SAMPLING,
            n_samples=2,
            seed=0,
            record=record,
            executions=executions,
        ):
            pass
        executions.finish(lambda _done, _total: None)
    lines = [{k: v for k, v in line.items() if k != "seconds"} for line in record.lines]
    report = make_report(cases, "clean", record.lines, outcomes(record), "")
    return [line for line in lines if "arm" in line], report


@settings(max_examples=4)
@given(st.data())
def test_a_killed_run_goes_on_to_the_same_results(data: st.DataObject) -> None:
    """Whatever byte of the record was the last to be written."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "run.jsonl")
        unbroken = go_on(path, chance(0))
        whole = path.read_bytes()
        kept = data.draw(st.floats(0, 1))
        path.write_bytes(whole[: int(kept * len(whole))])
        assert go_on(path, chance(0)) == unbroken


def test_the_cases_done_so_far_are_a_fair_sample() -> None:
    """Their order is chance, the same in every run, and no problem comes at once."""
    problems, _ = read_problems(OWN, whole=True)
    cases = choose_cases(problems, limit=None, inputs=None, seed=0)
    assert sorted(case.name for case in cases) == sorted(case.name for case in own_cases())
    assert [case.name for case in cases] != [case.name for case in own_cases()]
    assert cases == choose_cases(problems, limit=None, inputs=None, seed=0)
    few = choose_cases(problems, limit=2, inputs=1, seed=0)
    assert [case.index for case in few] == [0, 0]


def test_a_report_is_over_what_is_done_in_all_arms(tmp_path: Path) -> None:
    """A run that was broken off in a case leaves that case out, for every arm."""
    path = tmp_path / "run.jsonl"
    go_on(path, chance(0))
    lines = path.read_text().splitlines()
    last = max(number for number, line in enumerate(lines) if '"arm"' in line)
    path.write_text("\n".join(lines[:last] + lines[last + 1 :]) + "\n")
    record = Record(path, {"evaluation": "mtpb"})
    cases = choose_cases(read_problems(OWN, whole=True)[0], limit=3, inputs=2, seed=0)
    report = make_report(cases, "clean", record.lines, outcomes(record), "")
    assert report["n_samples"] == 11
    assert {row["n"] for row in report["arms"]} == {11}


def test_an_empty_answer_is_never_a_success(tmp_path: Path) -> None:
    """Not even where the prompts alone would print what is asked for."""
    problem = Problem("1", ("say\nprint(6)",), ({},), (6,), 8)
    sandbox: Any = FakeSandbox()
    sandbox.run = lambda program, keeps_print: Outcome(None, ["int", "6"])
    report = run_scripted([Case(problem, 0)], "", sandbox, tmp_path / "run.jsonl")
    assert {(row["n_passed"], row["non_empty"]) for row in report["arms"]} == {(0, 0.0)}


def run_scripted(cases: list[Case], script: str, sandbox: Any, path: Path) -> dict[str, Any]:
    """Return the report on a model that always writes the same."""
    record = Record(path, {})
    with Executions(sandbox, record, keeps_print=True) as executions:
        list(
            sample(
                fake_model(script),
                cases,
                "clean",
                SAMPLING,
                n_samples=1,
                seed=0,
                record=record,
                executions=executions,
            )
        )
        executions.finish(lambda _done, _total: None)
    return make_report(cases, "clean", record.lines, outcomes(record), "")


@pytest.mark.parametrize("text", ["", "{}\n", "notes\n", '{"id": 1, "prompts": ["{x}"]}\n'])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    """With one line that names it."""
    path = tmp_path / "problems.jsonl"
    path.write_text(text)
    with pytest.raises(ProblemsError, match=r"problems\.jsonl"):
        read_problems(path, whole=True)
    with pytest.raises(ProblemsError, match="cannot be read"):
        read_problems(tmp_path / "none", whole=True)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """Serve the project's own problems as if they had been published."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(OWN.read_bytes())

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/mtpb.jsonl"
        server.shutdown()
        thread.join()


def test_what_is_downloaded_is_what_was_published(
    served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another file is not kept; the right one is fetched once."""
    with pytest.raises(ProblemsError, match="not the file that was published"):
        download_problems(tmp_path, served)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(mtpb, "PUBLISHED_SHA256", hashlib.sha256(OWN.read_bytes()).hexdigest())
    path = download_problems(tmp_path, served)
    assert path.read_bytes() == OWN.read_bytes()
    assert download_problems(tmp_path, "http://127.0.0.1:1/") == path
    with pytest.raises(ProblemsError, match="cannot be fetched"):
        download_problems(tmp_path / "other", "http://127.0.0.1:1/")


def test_the_command_line_measures_and_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the file to the tables, with an estimate before and figures beside the record."""
    opened = {"model": "fake", "precision": "fp32", "weights_sha256": "0" * 64}
    monkeypatch.setattr(commands, "open_model", lambda *_: (fake_model("print(6)\n#"), opened))
    record = tmp_path / "run.jsonl"
    arguments = ["eval", "mtpb", "--problems", str(OWN), "--limit", "1"]
    arguments += ["--record", str(record)]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert "hours are left" in shown.err
    assert "no evidence" in shown.out
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["settings"]["problems"] == 1
    assert report == json.loads(record.with_suffix(".json").read_text())


def test_a_run_that_is_broken_off_shows_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever presses Ctrl-C has the figures so far, and may go on later."""
    n_calls = 0

    def script(prompt: str) -> str:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 28:
            raise KeyboardInterrupt
        return "print(6)\n#"

    opened = {"model": "fake", "precision": "fp32", "weights_sha256": "0" * 64}
    sandbox = FakeSandbox()
    monkeypatch.setattr(commands, "open_model", lambda *_: (fake_model(script), opened))
    monkeypatch.setattr(commands, "Sandbox", lambda: sandbox)
    arguments = ["eval", "mtpb", "--problems", str(OWN), "--inputs", "1", "--json"]
    arguments += ["--record", str(tmp_path / "run.jsonl")]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert "broken off" in shown.err
    assert 0 < json.loads(shown.out)["n_cases"] < 7
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["n_cases"] == 7
