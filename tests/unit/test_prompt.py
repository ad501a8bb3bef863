"""Prompts: in the budget, ending where the text ends, and starting where they did."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lsp_server.models import embedded_checkpoint
from lsp_server.prompt import TextTokenizer, build_prompt, prompt_start
from lsp_server.tokenizer import Tokenizer
from lsp_server.turns import read_turns
from tests.fakes import ByteTokenizer

EOS = 6105
"""What no text has, in either tokenizer."""
TINY = Tokenizer.from_file(embedded_checkpoint() / "tokenizer.json")
TOKENIZERS: tuple[TextTokenizer, ...] = (ByteTokenizer(), TINY)
TURN = "# Compute {n}.\nvalue_{n} = compute({n}, limit=100)\nprint(value_{n})\n\n"
FILE = "".join(TURN.format(n=n) for n in range(400))

texts = st.text(st.sampled_from("ab_ \n\t.#é中😀"), max_size=60) | st.lists(
    st.sampled_from(
        ["word ", "\n", "x" * 90, "é" * 40, "😀" * 30, "# Do it.\n", "    ", "\n\n"]
    )
).map("".join)


@given(
    text=texts,
    n_tokens=st.integers(1, 200),
    heal=st.booleans(),
    tokenizer=st.sampled_from(TOKENIZERS),
)
@example(text="é" * 5, n_tokens=3, heal=True, tokenizer=TOKENIZERS[0])
@example(text="x" * 2999 + "\n", n_tokens=10, heal=False, tokenizer=TOKENIZERS[0])
def test_a_prompt_is_the_end_of_the_text_in_the_budget(
    text: str, n_tokens: int, heal: bool, tokenizer: TextTokenizer
) -> None:
    """For any text and budget the prompt fits and is, with what is required, its end."""
    starts = read_turns(text)
    prompt = build_prompt(
        tokenizer, text, starts, n_tokens=n_tokens, heal=heal, eos_token_id=EOS
    )
    assert 1 <= len(prompt.token_ids) <= n_tokens
    kept = [token_id for token_id in prompt.token_ids if token_id != EOS]
    assert text.encode().endswith(tokenizer.decode_bytes(kept) + prompt.required)
    assert prompt.required.decode() in text
    assert heal or not prompt.required
    if kept and len(text.encode()) > n_tokens:
        assert 8 * (len(kept) + len(prompt.required)) >= n_tokens


@pytest.mark.parametrize(
    ("text", "required"),
    [
        ("x = retu", " retu"),
        ("retu", "retu"),
        ("x.", "."),
        ("f(", "("),
        ("x\n    ", "\n    "),
        ("", ""),
        ("x = " + "y" * 40, ""),
    ],
)
def test_healing_backs_up_one_pre_token(text: str, required: str) -> None:
    """The last word is left to the model, unless it is so long that nothing is gained."""
    prompt = build_prompt(ByteTokenizer(), text, [], n_tokens=100, heal=True, eos_token_id=EOS)
    assert prompt.required.decode() == required
    before = text.removesuffix(required)
    assert prompt.token_ids == (ByteTokenizer().encode(before).token_ids or [EOS])


def test_an_empty_prompt_is_the_end_of_the_text_before() -> None:
    """The model begins a new file where there is no text."""
    prompt = build_prompt(ByteTokenizer(), "", [], n_tokens=9, heal=False, eos_token_id=EOS)
    assert prompt.token_ids == [EOS]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize(
    ("n_tokens", "n_keystrokes", "every"), [(300, 500, 1), (1792, 2000, 20)]
)
def test_the_start_stands_while_one_types(
    tokenizer: TextTokenizer, n_tokens: int, n_keystrokes: int, every: int
) -> None:
    """Nearly all keystrokes leave the start, and so the cached prefix, where it was."""
    typed = "total = sum(value for value in values if value)\n" * 42
    turn_starts = [turn.start for turn in read_turns(FILE)]
    starts = [
        prompt_start(tokenizer, FILE + typed[:n], turn_starts, n_tokens)
        for n in range(0, n_keystrokes, every)
    ]
    assert starts[0] > 0
    assert starts[-1] > starts[0]
    assert sum(a != b for a, b in pairwise(starts)) <= n_keystrokes // 50


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_a_prompt_starts_with_a_turn(tokenizer: TextTokenizer) -> None:
    """Whole turns leave a full context, none in part."""
    turn_starts = [turn.start for turn in read_turns(FILE)]
    assert prompt_start(tokenizer, FILE, turn_starts, 1792) in turn_starts


def test_a_prompt_starts_with_a_line_where_there_is_no_turn() -> None:
    """Without turns the oldest line that is kept is a whole one."""
    text = "value = compute(1)\n" * 600
    start = prompt_start(ByteTokenizer(), text, [], 1792)
    assert start > 0
    assert text[start - 1] == "\n"


@pytest.mark.parametrize("character", ["x", " ", "é", "😀", "\n"])
def test_a_line_of_a_megabyte_has_a_prompt(character: str) -> None:
    """A text without any place to start at is cut where the budget is used up."""
    prompt = build_prompt(
        ByteTokenizer(),
        character * (1 << 20),
        [],
        n_tokens=500,
        heal=True,
        eos_token_id=EOS,
    )
    assert 125 <= len(prompt.token_ids) <= 500
