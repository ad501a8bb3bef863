"""CodeGen 2.5's vocabulary from GPT-2's merges; pure, knows no library and no checkpoint.

Salesforce's repositories hold a program, tokenization_codegen25.py, instead of a
vocabulary. It adds to GPT-2's table of ranks, and what it makes is made here without it.
"""

from dataclasses import dataclass
from importlib.resources import files

# In the order of the bytes' ids (openai/gpt-2, encoder.py).
_BYTE_ALPHABET = [chr(c) for c in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x144))]
# How GPT-2 writes a space and a tab, and the longest run that has a token.
_LONGEST_RUNS = {"\u0120": 31, "\u0109": 9}
_SPECIAL_TOKENS = [
    *["<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>", "<filename>", "<gh_stars>"],
    *["<issue_start>", "<issue_comment>", "<issue_closed>"],
    *["<jupyter_start>", "<jupyter_text>", "<jupyter_code>", "<jupyter_output>"],
    *["<empty_output>", "<commit_before>", "<commit_msg>", "<commit_after>", "<reponame>"],
    *["<dummy_0>", "<dummy_1>", "<dummy_2>", "<dummy_3>", "<sep>", "<eom>"],
    *[f"<mask_{i}>" for i in range(881, 0, -1)],
]


@dataclass(frozen=True)
class CodeGen25Vocabulary:
    """A byte-level BPE in GPT-2's notation; merges stand in the order of their ranks.

    The special tokens' ids follow on the vocabulary's, in order.
    """

    vocabulary: dict[str, int]
    merges: list[tuple[str, str]]
    special_tokens: list[str]


def read_codegen25_vocabulary() -> CodeGen25Vocabulary:
    """Return the vocabulary that is made of the package's copy of GPT-2's merges.

    Runs of spaces and tabs are tokens that merges make, not added ones as in CodeGen 1: a
    space before a word stays with the word. The longest run has the lowest id and rank, so
    a run grows at its left end: no other merges than "all before, and one more" are used.
    """
    text = (files("model_export") / "gpt2" / "vocab.bpe").read_text(encoding="utf-8")
    merges = [(a, b) for a, _, b in (line.partition(" ") for line in text.splitlines()[1:])]
    tokens = [*_BYTE_ALPHABET, *(a + b for a, b in merges), "<|endoftext|>"]
    runs = [
        (char * (length - 1), char)
        for char, longest in _LONGEST_RUNS.items()
        for length in range(longest, 1, -1)
    ]
    tokens += [a + b for a, b in runs]
    return CodeGen25Vocabulary(
        {token: token_id for token_id, token in enumerate(tokens)},
        merges + runs,
        _SPECIAL_TOKENS,
    )
