"""Infill: the published prompt, within its budget, and an answer that fits what follows."""

import json
import math
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st

from lsp_server.completion import Completion, complete, warm_up
from lsp_server.infill import InfillTokens, build_infill_prompt, n_prefix_tokens
from lsp_server.models import embedded_checkpoint
from lsp_server.plan import Rule, Snapshot
from lsp_server.prompt import TextTokenizer
from lsp_server.tokenizer import Tokenizer
from lsp_server.turns import read_turns
from tests.fakes import INFILL_TOKENS, ByteTokenizer, ScriptedEngine, fake_model

EMBEDDED = embedded_checkpoint() / "tokenizer.json"
ADDED = ("<sep>", "<eom>", "<mask_2>", "<mask_1>")
CURSOR = "$0"
ABOVE = "".join(f"# Compute {n}.\nvalue_{n} = {n}\n\n" for n in range(300))
BELOW = "".join(f"print(value_{n})\n" for n in range(300))


def with_infill_tokens(change: Callable[[tokenizers.Tokenizer], None]) -> Tokenizer:
    """Return the embedded model's tokenizer with a change."""
    tokenizer = tokenizers.Tokenizer.from_file(str(EMBEDDED))
    change(tokenizer)
    return Tokenizer(tokenizer)


REAL = with_infill_tokens(
    # Some published files do not call them special.
    lambda t: t.add_tokens([tokenizers.AddedToken(text, normalized=False) for text in ADDED])
)
assert REAL.infill_tokens is not None
KINDS: tuple[tuple[TextTokenizer, InfillTokens], ...] = (
    (ByteTokenizer(), INFILL_TOKENS),
    (REAL, REAL.infill_tokens),
)

texts = st.lists(
    st.sampled_from(
        [
            *("word ", "retu", "\n", "\n\n", "    ", "\t", " ", ".", "é", "😀", "x" * 90),
            *("# Do it.\n", "def f():\n", "😀" * 30, "<mask_1>", "<sep>", "<|endoftext|>"),
            *("<eom>", "<mask_", "1>", "\ud800"),
        ]
    ),
    max_size=40,
).map("".join)


def built(
    before: str,
    after: str,
    n_tokens: int,
    kind: tuple[TextTokenizer, InfillTokens],
    heal: bool = False,
    condense: bool = False,
) -> tuple[list[list[int]], bytes]:
    """Return the prefix, the suffix and the line of a prompt, and what is required."""
    tokenizer, tokens = kind
    turns = read_turns(before)
    prompt = build_infill_prompt(
        tokenizer,
        tokens,
        before,
        after,
        turns,
        n_tokens=n_tokens,
        heal=heal,
        condense=condense,
    )
    assert len(prompt.token_ids) <= n_tokens
    parts: list[list[int]] = [[]]
    for token_id in prompt.token_ids:
        if token_id in (tokens.mask, tokens.separator, tokens.end_of_text):
            parts.append([])
        else:
            parts[-1].append(token_id)
    prefix, suffix, between, also_between, line = parts
    assert not between
    assert not also_between
    marks = [tokens.mask, tokens.end_of_text, tokens.separator, tokens.mask]
    assert prompt.token_ids == [
        *prefix, marks[0], *suffix, *marks[1:], *line
    ]  # fmt: skip
    return [prefix, suffix, line], prompt.required


@given(before=texts, after=texts, heal=st.booleans())
@example(before="x = <mask_1>", after="<|endoftext|><sep><mask_1>y", heal=True)
@example(before="", after="x" * 98 + "\U0001f600" * 34, heal=False)
def test_the_prompt_is_the_published_format(before: str, after: str, heal: bool) -> None:
    """Byte for byte, with the masked text begun as far as the cursor's line stands."""
    assert REAL.infill_tokens is not None
    before, after = (text.replace("\ud800", "\ufffd") for text in (before, after))
    prompt = build_infill_prompt(
        REAL, REAL.infill_tokens, before, after, [], n_tokens=100_000, heal=heal
    )
    line_start = before.rfind("\n") + 1
    prefix, line = before[:line_start], before[line_start:]
    written = REAL.decode_bytes(prompt.token_ids) + prompt.required
    suffix = written.decode()[len(prefix) + len("<mask_1>") :]
    suffix = suffix[: len(suffix) - len(f"<|endoftext|><sep><mask_1>{line}")]
    assert written.decode() == f"{prefix}<mask_1>{suffix}<|endoftext|><sep><mask_1>{line}"
    assert after.startswith(suffix)
    assert suffix == after or len(REAL.encode(after).token_ids) > 128


@given(
    before=texts,
    after=texts,
    n_tokens=st.integers(6, 300),
    heal=st.booleans(),
    kind=st.sampled_from(KINDS),
)
def test_any_text_fits(
    before: str,
    after: str,
    n_tokens: int,
    heal: bool,
    kind: tuple[TextTokenizer, InfillTokens],
) -> None:
    """The prefix loses its beginning and the suffix its end, the latter at a line's end."""
    tokenizer, _ = kind
    (prefix, suffix, line), required = built(before, after, n_tokens, kind, heal)
    expected_before, expected_after = (
        text.replace("\ud800", "\ufffd").encode() for text in (before, after)
    )
    kept = tokenizer.decode_bytes(suffix)
    assert expected_before.endswith(tokenizer.decode_bytes(prefix + line) + required)
    assert expected_after.startswith(kept)
    assert kept == expected_after or kept.endswith(b"\n") or b"\n" not in kept
    assert len(suffix) <= n_tokens // 4
    # A character has four tokens at most, and half of one would be read wrongly.
    assert bool(suffix) is bool(after) or n_tokens < 16
    assert heal or not required


@pytest.mark.parametrize("kind", KINDS)
def test_the_suffix_is_whole_lines_near_the_cursor(
    kind: tuple[TextTokenizer, InfillTokens],
) -> None:
    """A long rest of a file costs a hundred tokens, and not a part of its line."""
    tokenizer, _ = kind
    (_, suffix, _), _ = built("x = ", "\n" + BELOW, 1792, kind)
    kept = tokenizer.decode_bytes(suffix).decode()
    assert 100 < len(suffix) <= 128
    assert ("\n" + BELOW).startswith(kept)
    assert kept.endswith(")\n")
    (_, suffix, _), _ = built("x = ", "y" * 10_000, 1792, kind)
    assert 0 < len(suffix) <= 128


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("above", ["x = 1\n", ABOVE])
def test_typing_changes_the_prompts_end(
    above: str, kind: tuple[TextTokenizer, InfillTokens]
) -> None:
    """Along a line, prefix and suffix stand as they are, in a file of any length."""
    typed = "total = sum(value for value in values if value)"
    found = [built(above + typed[:n], BELOW, 1792, kind)[0] for n in range(len(typed))]
    changes = [a[:2] != b[:2] for a, b in pairwise(found)]
    assert sum(changes) <= (1 if above == ABOVE else 0)
    assert 4 * len(found[0][0]) >= min(1536, len(kind[0].encode(above).token_ids))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_in_use_of_old_text_stands_before_the_prefix(
    kind: tuple[TextTokenizer, InfillTokens],
) -> None:
    """A definition that the turn names is there, and typing leaves it there."""
    definition = "def compute(value):\n    return value\n"
    above = f"{definition}\n\n{ABOVE}# Use compute.\n"
    typed = "total = sum(compute(value) for value in values)"
    found = [
        built(above + typed[:n], BELOW, 1792, kind, condense=True)[0] for n in range(len(typed))
    ]
    prefix = kind[0].decode_bytes(found[0][0]).decode()
    assert prefix.startswith(f"{definition}# Compute ")
    assert prefix.endswith("# Use compute.\n")
    assert sum(a[:2] != b[:2] for a, b in pairwise(found)) <= 1


@pytest.mark.parametrize(
    ("content", "missing"), [(ADDED, ""), *((ADDED, text) for text in ("<sep>", "<mask_1>"))]
)
def test_infill_tokens_are_read_from_the_tokenizer(
    content: tuple[str, ...], missing: str
) -> None:
    """Where one is missing there is no infill."""
    tokenizer = with_infill_tokens(
        lambda t: t.add_tokens([text for text in content if text != missing])
    )
    assert (tokenizer.infill_tokens is None) is bool(missing)
    assert Tokenizer.from_file(EMBEDDED).infill_tokens is None


@pytest.mark.parametrize("is_special", [True, False])
def test_a_text_never_becomes_a_special_token(is_special: bool, tmp_path: Path) -> None:
    """A file that speaks of the tokens holds characters, whatever its folder says of them."""
    data = json.loads(EMBEDDED.read_text(encoding="utf-8"))
    first = max(token["id"] for token in data["added_tokens"]) + 1
    like = next(t for t in data["added_tokens"] if t["content"] == "<|endoftext|>")
    data["added_tokens"] += [
        like | {"id": first + i, "content": text, "special": is_special}
        for i, text in enumerate(ADDED)
    ]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    tokenizer = Tokenizer.from_file(path)
    text = "    if x: '<mask_1> <sep><|endoftext|>'  # <eom>\n        <mask_2>"
    encoded = tokenizer.encode(text)
    special = {like["id"], *range(first, first + len(ADDED))}
    assert not special & set(encoded.token_ids)
    assert tokenizer.decode(encoded.token_ids) == text
    assert "".join(text[start:end] for start, end in encoded.spans) == text
    # Runs of whitespace are tokens still.
    assert encoded.spans[0] == (0, 4)
    # And what stands for no text is never asked for.
    size = first + len(ADDED)
    mask = tokenizer.vocabulary.allowed(b"<", b"", size)
    assert mask.any()
    assert not mask[sorted(special)].any()


def snapshot_of(marked: str) -> Snapshot:
    """Return the snapshot of a text that holds the cursor's mark."""
    before, _, after = marked.partition(CURSOR)
    return Snapshot(before + after, len(before))


def asked(
    marked: str, script: str = "x\n", *, budget_ms: float = math.inf
) -> tuple[Completion, ScriptedEngine]:
    """Return a completion at the mark by a model that can infill, and its engine."""
    model = fake_model(script, infill_tokens=INFILL_TOKENS)
    completion = complete(model, snapshot_of(marked), max_new_tokens=256, budget_ms=budget_ms)
    assert isinstance(model.engine, ScriptedEngine)
    return completion, model.engine


def infills(engine: ScriptedEngine) -> bool:
    """Tell whether the first prompt was one of infill."""
    return INFILL_TOKENS.mask in engine.calls[0].token_ids


@pytest.mark.parametrize(
    ("marked", "expected"),
    [
        ("x = f($0)\n", True),
        ("x = [\n    $0\n]\n", True),
        ("x = $0\ny = 2\n", True),
        ("x = 1\n$0\n\n# Next.\n", True),
        ("def f():\n    x = 1\n    $0\n\ndef g():\n    y\n", True),
        ("x = $0", False),
        ("x = $0\n  \n\n", False),
        ("# Do it.\n$0", False),
        ("# Do it.\n$0\n\n# Next.\ny = 2\n", False),
    ],
)
def test_when_a_model_infills(marked: str, expected: bool) -> None:
    """Where anything follows the cursor, but never for a turn: its prompt is the paper's."""
    completion, engine = asked(marked)
    assert infills(engine) is expected
    assert (completion.rule is Rule.TURN) is marked.startswith("# Do it.")
    _, without = asked(marked)
    model = fake_model("x\n")
    complete(model, snapshot_of(marked), max_new_tokens=256)
    assert isinstance(model.engine, ScriptedEngine)
    assert not infills(model.engine)
    if not expected:
        assert without.calls == model.engine.calls


def test_a_half_typed_word_is_left_to_the_model() -> None:
    """What is masked goes on before the word, and the answer begins with what is typed."""
    completion, engine = asked("def f(x):\n    retu$0\n\nf(1)\n", "retx return x")
    ids = ByteTokenizer().encode
    expected = [
        *ids("def f(x):\n").token_ids,
        INFILL_TOKENS.mask,
        *ids("\n\nf(1)\n").token_ids,
        INFILL_TOKENS.end_of_text,
        INFILL_TOKENS.separator,
        INFILL_TOKENS.mask,
        *ids("   ").token_ids,
    ]
    assert list(engine.calls[0].token_ids) == expected
    assert completion.candidates[0].insert_text == "x return x"


@pytest.mark.parametrize(
    ("marked", "script", "expected"),
    [
        ("x = f($0)\n", "(a, b", "a, b"),
        ("x = f($0)\n", "(a, b)\n", "a, b"),
        ("x = $0\ny = 2\n", " [\n    1,\n]", "[\n    1,\n]"),
        ("x = 1\n$0\ny = 2\n", "if x:\n    a\n    b", "if x:\n    a\n    b"),
        ("x = 1\n$0\ny = 2\n", "if x:\n    a\ny = 2", "if x:\n    a"),
        ("x = 1\n$0\ny = 2\n", "if x:\n    a\nz = 1\ny = 2", "if x:\n    a"),
        ("if x:\n    $0\n    b\n", "    while x:\n        a\n    b", "while x:\n        a"),
        ("if x:\n    $0\n    b\n", "    b", ""),
        ("if x:$0\n    b\n", ":\n    a\n    b", ""),
        ("x = 1\n$0\ny = 2\n", "", ""),
        ("x = 1\n$0\ny = 2\n", "x = 3\n```\nThis", "x = 3"),
    ],
)
def test_what_the_model_ends_is_whole(marked: str, script: str, expected: str) -> None:
    """The end that the model gave is the end, and what follows is not written again."""
    completion, _ = asked(marked, script)
    assert "".join(c.insert_text for c in completion.candidates) == expected


LINES = ("x = 1", "    x = 1", "y = 2", "    y = 2", "if x:", "", "f(", ")", "# c", "```")
lines = st.lists(st.sampled_from(LINES), max_size=6).map("\n".join)


@given(before=lines, after=lines, script=lines, repeats=st.booleans())
@example(before="f(", after="    x = 1", script="    x = 1\n)", repeats=False)
def test_an_answer_never_ends_with_what_follows(
    before: str, after: str, script: str, repeats: bool
) -> None:
    """Whatever the model writes, the lines that stand below stand there once."""
    script = f"{script}\n{after}" if repeats else script
    completion, _ = asked(f"{before}\n{CURSOR}\n{after}", script)
    follows = [line.rstrip() for line in after.split("\n") if line.strip()]
    for candidate in completion.candidates:
        written = [line for line in candidate.insert_text.split("\n") if line.strip()]
        assert written
        for n_lines in range(1, min(len(written), len(follows)) + 1):
            tail = [line.rstrip() for line in written[-n_lines:]]
            assert tail != follows[:n_lines]


@given(before=texts, after=texts, script=texts, n_tokens=st.sampled_from([16, 100, 2048]))
def test_any_place_has_an_answer(before: str, after: str, script: str, n_tokens: int) -> None:
    """Whatever the text, the cursor and the model, there are candidates or a reason."""
    model = fake_model(script, n_tokens, INFILL_TOKENS)
    snapshot = Snapshot(before + after, len(before))
    completion = complete(model, snapshot, max_new_tokens=60, budget_ms=50)
    assert bool(completion.candidates) is not bool(completion.silence)


def test_prompts_of_all_rules_start_alike() -> None:
    """Whether there is infill or not, the cached prefix is the same."""
    prompts = []
    for rest in ("x = f($0)", "x = $0", "# Do it.\n$0", "x = $0\ny\n", "x = $0\n" + BELOW):
        _, engine = asked(ABOVE + rest)
        prompts.append(engine.calls[0].token_ids)
    assert len({prompt[:200] for prompt in prompts}) == 1


def test_what_follows_counts_for_the_budget() -> None:
    """Where it would take too long to read, the answer does without, and it is read next."""
    model = fake_model("1\n", infill_tokens=INFILL_TOKENS)
    engine = model.engine
    assert isinstance(engine, ScriptedEngine)
    history = ABOVE[:600]
    engine.prefill(ByteTokenizer().encode(history).token_ids, threading.Event())
    marked = f"{history}value_7 = $0\n{BELOW}"
    first = complete(model, snapshot_of(marked), max_new_tokens=64, budget_ms=100)
    assert engine.calls[0].prompt == history + "value_7 ="
    assert INFILL_TOKENS.mask in first.unread
    assert first.candidates[0].insert_text == "1"
    engine.prefill(first.unread, threading.Event())
    for typed in ("", "v", "va", "val"):
        marked = f"{history}value_7 = {typed}$0\n{BELOW}"
        again = complete(model, snapshot_of(marked), max_new_tokens=64, budget_ms=10)
        assert INFILL_TOKENS.mask in engine.calls[-1].token_ids
        assert again.unread == ()


def test_an_empty_cache_shortens_what_stands_before() -> None:
    """Where even the text before the cursor takes too long, its nearest part answers."""
    completion, engine = asked(f"{ABOVE}x = $0\n{BELOW}", "1\n", budget_ms=128)
    assert not infills(engine)
    assert completion.prompt_tokens <= 128
    assert INFILL_TOKENS.mask in completion.unread
    assert len(completion.unread) > 1000


@pytest.mark.parametrize("marked", ["f(a, $0)\n", ABOVE[:600] + "x = valu$0\n" + BELOW])
def test_warming_up_reads_what_completing_reads(marked: str) -> None:
    """After it, a completion has nothing left to read but the prompt's last token."""
    model = fake_model("1\n", infill_tokens=INFILL_TOKENS)
    snapshot = snapshot_of(marked)
    warm_up(model, snapshot, max_new_tokens=64, stop=threading.Event())
    completion = complete(model, snapshot, max_new_tokens=64, budget_ms=0)
    assert completion.unread == ()
    assert completion.reused_tokens == completion.prompt_tokens - 1


def test_most_of_the_context_is_for_what_stands_before() -> None:
    """The suffix has at most a quarter, and of a usual context far less."""
    assert n_prefix_tokens(1792) == 1660
    assert n_prefix_tokens(64) == 44
    assert n_prefix_tokens(6) == 1
