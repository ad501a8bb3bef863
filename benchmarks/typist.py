"""What a person types who writes a file, key by key: pure; knows no server and no clock.

Some lines of a file are typed in stints. After each the person jumps to another place,
deletes a line or a few and types them again. Wrong keys are noticed at once or a
key later and deleted. Enter brings the next line's indentation, as editors do; brackets
are not closed by themselves. The file that comes out is the file that went in.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_KEY_S, _SPREAD = 0.16, 0.45
"""The median pause before a key, about 60 words a minute, and the spread of its logarithm."""
_WORD_S = 0.22
_LINE_S = 0.7
"""Before the first key of a word and of a line: people think there."""
_NOTICE_S = 0.35
"""Before a wrong key is deleted."""
_JUMP_S = 1.5
_TYPO_SHARE = 0.03
_STINT = 40
"""Characters that are typed before something else comes to mind, at least."""
_FEWEST, _MOST = 20, 50
"""Characters of what is deleted and typed again."""
_NEW_SHARE = 0.6
"""Of the keys: what is not typed again."""


@dataclass(frozen=True)
class Edit:
    """One key, or one deletion: text for ``n_deleted`` characters at an offset."""

    pause_s: float
    """How long the person waits before it."""
    offset: int
    n_deleted: int
    text: str

    def applied(self, text: str) -> str:
        """Return the text after the edit."""
        return text[: self.offset] + self.text + text[self.offset + self.n_deleted :]


@dataclass(frozen=True)
class Passage:
    """Text that is typed at one place; a deletion of what stands there may come first."""

    offset: int
    text: str
    edits: tuple[Edit, ...]

    def after(self, text: str, cursor: int) -> str:
        """Return what is still to come; nothing where a wrong key stands before the cursor."""
        n_typed = cursor - self.offset
        is_right = text[self.offset : cursor] == self.text[:n_typed]
        return self.text[n_typed:] if is_right else ""


@dataclass(frozen=True)
class Script:
    """A text to begin with and what is then done to it."""

    start: str
    passages: tuple[Passage, ...]


def write_script(source: str, seed: int, n_keys: int) -> Script:
    """Return how a person writes some lines of a source, with about ``n_keys`` keys."""
    rng = np.random.default_rng(seed)
    stints = _stints(source, rng, round(_NEW_SHARE * n_keys))
    begin, end = stints[0][0], stints[-1][1]
    passages = []
    for first, last in stints:
        keys = tuple(_typed(source[first:last], first, rng, _LINE_S))
        passages.append(Passage(first, source[first:last], keys))
        n_missing = end - last
        if span := _retyped(source, (begin, end), rng):
            shift = -n_missing if span[0] >= end else 0
            passages.append(_retyping(source[slice(*span)], span[0] + shift, rng))
    return Script(source[:begin] + source[end:], tuple(passages))


def _stints(source: str, rng: np.random.Generator, n_new: int) -> list[tuple[int, int]]:
    """Return adjacent spans of whole lines, from the beginning of a function if possible."""
    lines = _lines(source)
    limit = max(0, len(source) - n_new)
    beginnings = [start for start, _ in lines if start <= limit]
    functions = [start for start in beginnings if source[start:].lstrip(" ").startswith("def ")]
    begin = int(rng.choice(functions or beginnings))
    stints = [(begin, begin)]
    for start, end in lines:
        if start < begin or start >= begin + n_new:
            continue
        if stints[-1][1] - stints[-1][0] >= _STINT:
            stints.append((start, start))
        stints[-1] = (stints[-1][0], end)
    return stints


def _retyped(
    source: str, typed: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int] | None:
    """Return a span outside of what is typed anyway: the content of one to three lines."""
    lines = _lines(source)
    spans = []
    for index in range(len(lines)):
        for _, end in lines[index : index + 3]:
            content = source[lines[index][0] : end]
            start = end - len(content.lstrip())
            stop = start + len(content.strip())
            is_apart = stop <= typed[0] or start >= typed[1]
            if is_apart and _FEWEST <= stop - start <= _MOST:
                spans.append((start, stop))
    return spans[rng.integers(len(spans))] if spans else None


def _retyping(text: str, offset: int, rng: np.random.Generator) -> Passage:
    deletion = Edit(_pause(_JUMP_S, rng), offset, len(text), "")
    return Passage(offset, text, (deletion, *_typed(text, offset, rng, _NOTICE_S)))


def _typed(text: str, offset: int, rng: np.random.Generator, first_s: float) -> Iterator[Edit]:
    """Yield the keys of a text, with wrong ones that are deleted."""
    median_s = first_s
    for key in _keys(text):
        if key.isalpha() and rng.random() < _TYPO_SHARE:
            following = text[1:2] if rng.random() < 0.5 else ""
            yield from _typo(key, following.strip(), offset, rng)
        yield Edit(_pause(median_s, rng), offset, 0, key)
        offset, text = offset + len(key), text[len(key) :]
        median_s = {"\n": _LINE_S, " ": _WORD_S}.get(key[0], _KEY_S)


def _typo(key: str, following: str, offset: int, rng: np.random.Generator) -> Iterator[Edit]:
    """Yield a wrong key, perhaps the right one after it, and their deletion."""
    others = [letter for letter in "etaoinsrhl" if letter != key]
    wrong = str(rng.choice(others)) + following
    for n_before, character in enumerate(wrong):
        yield Edit(_pause(_KEY_S, rng), offset + n_before, 0, character)
    for n_before in reversed(range(len(wrong))):
        is_first = n_before == len(wrong) - 1
        pause_s = _pause(_NOTICE_S if is_first else _KEY_S, rng)
        yield Edit(pause_s, offset + n_before, 1, "")


def _keys(text: str) -> Iterator[str]:
    """Yield single characters, and a newline with the indentation that comes with it."""
    at = 0
    while at < len(text):
        end = at + 1
        if text[at] == "\n":
            indented = text[end:].lstrip(" ")
            # On an empty line editors take the indentation away again.
            if indented[:1] not in ("", "\n"):
                end = len(text) - len(indented)
        yield text[at:end]
        at = end


def _pause(median_s: float, rng: np.random.Generator) -> float:
    return median_s * math.exp(_SPREAD * rng.standard_normal())


def _lines(source: str) -> list[tuple[int, int]]:
    """Return where each line starts and ends, its newline included."""
    ends = [at + 1 for at, character in enumerate(source) if character == "\n"]
    starts = [0, *ends]
    return list(zip(starts, [*ends, len(source)], strict=True))


def accepted_part(suggestion: str, expected: str) -> str:
    """Return what of a suggestion a person takes who wants to write ``expected``.

    The whole or its first line, if that is what comes next and no word is cut; an empty
    text if it is wrong or saves less than three keys.
    """
    for part in (suggestion.rstrip(), suggestion.partition("\n")[0].rstrip()):
        follows = expected[len(part) :][:1]
        cuts_word = _is_word(part[-1:]) and _is_word(follows)
        if len(part.strip()) >= 3 and expected.startswith(part) and not cuts_word:
            return part
    return ""


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"
