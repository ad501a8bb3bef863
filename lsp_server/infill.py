"""From the text around the cursor to the prompt of a model that can infill; pure.

CodeGen 2 and 2.5 were trained on ``prefix <mask_1> suffix <|endoftext|> <sep> <mask_1>``
and what belongs between the two, ended by ``<eom>`` (Nijkamp et al., 2023, and the model
cards). Whether and when to infill is not decided here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lsp_server.prompt import (
    CHARACTERS_PER_TOKEN,
    Prompt,
    TextTokenizer,
    beginning,
    newest_tokens,
)
from lsp_server.turns import Turn

_MOST_SUFFIX_TOKENS = 128
"""About ten lines. They are read again on each new line, and only then."""
_SUFFIX_SHARE = 4
"""One in so many tokens of a short context may be the suffix's."""
_N_MARKS = 4


@dataclass(frozen=True)
class InfillTokens:
    """The ids that an infill prompt is made with."""

    mask: int
    separator: int
    end_of_text: int


def n_prefix_tokens(n_tokens: int) -> int:
    """Return how many of a prompt's tokens are there for the text before the cursor."""
    return n_tokens - _n_suffix_tokens(n_tokens) - _N_MARKS


def build_infill_prompt(
    tokenizer: TextTokenizer,
    tokens: InfillTokens,
    before: str,
    after: str,
    turns: Sequence[Turn],
    *,
    n_tokens: int,
    heal: bool,
    condense: bool = False,
    above: str = "",
) -> Prompt:
    """Return an infill prompt of at most ``n_tokens`` tokens, six at least.

    What is masked begins with the cursor's line, and the prompt ends with what stands
    there already, as if the model had written it. So typing changes the prompt's end
    alone. Were it the end of the prefix that changes, the suffix would have to be read
    again for each key: with 350M parameters in int8 on two cores 64 tokens of it make a
    key 9 times as long, 128 tokens 15 times, 256 tokens 30 times.
    """
    n_prefix = n_prefix_tokens(n_tokens)
    head, start = beginning(tokenizer, before, turns, n_prefix, condense=condense, above=above)
    n_prefix -= len(head)
    line_start = max(start, before.rfind("\n") + 1)
    line = newest_tokens(tokenizer, before[line_start:], n_tokens=n_prefix, heal=heal)
    prefix = tokenizer.encode(before[start:line_start]).token_ids
    n_left = n_prefix - len(line.token_ids)
    token_ids = [
        *head,
        *prefix[max(0, len(prefix) - n_left) :],
        tokens.mask,
        *_suffix(tokenizer, after, _n_suffix_tokens(n_tokens)),
        tokens.end_of_text,
        tokens.separator,
        tokens.mask,
        *line.token_ids,
    ]
    return Prompt(token_ids, line.required)


def _n_suffix_tokens(n_tokens: int) -> int:
    return min(_MOST_SUFFIX_TOKENS, n_tokens // _SUFFIX_SHARE)


def _suffix(tokenizer: TextTokenizer, after: str, n_tokens: int) -> list[int]:
    """Return the tokens of the text's beginning, cut at a line's end if there is one."""
    text = after[: n_tokens * CHARACTERS_PER_TOKEN]
    encoded = tokenizer.encode(text)
    token_ids, spans = encoded.token_ids, encoded.spans
    if len(token_ids) <= n_tokens and len(text) == len(after):
        return token_ids
    # Tokens of one character, which a rare one has several of, have the same span.
    whole = [
        n
        for n in range(min(n_tokens, len(spans)), 0, -1)
        if n == len(spans) or spans[n][0] >= spans[n - 1][1]
    ]
    at_line_end = (n for n in whole if text[spans[n - 1][1] - 1] == "\n")
    return token_ids[: next(at_line_end, max(whole, default=0))]
