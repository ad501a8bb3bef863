"""Guessing the next tokens from text that is there already."""

from hypothesis import given
from hypothesis import strategies as st

from lsp_server.drafting import PromptLookup, Source


def test_the_newest_place_in_the_context_is_followed() -> None:
    """Where the last tokens stood twice before, the later continuation is guessed."""
    context = [1, 2, 3, 4, 9, 1, 2, 3, 5, 9, 1, 2, 3]
    assert PromptLookup()(context)[0] == 5


def test_other_text_is_followed_where_the_context_has_no_place() -> None:
    """What follows the cursor and other buffers are looked at in their order."""
    sources = [[7, 7, 1, 2, 3, 4, 5], [1, 2, 3, 6, 6]]
    assert PromptLookup(map(Source, sources))([8, 1, 2, 3]) == [4, 5]


def test_without_a_place_nothing_is_guessed() -> None:
    """Text that repeats nothing costs no verification."""
    assert PromptLookup([Source([5, 6, 7, 8])])([1, 2, 3, 4]) == []


def test_guesses_grow_while_they_hold_and_end_when_they_do_not() -> None:
    """Good guesses get longer, bad ones stop being offered, and a good one starts anew."""
    text = list(range(100))
    lookup = PromptLookup([Source(text)])
    lengths = []
    n_known = 3
    while n_known < 60:
        guess = lookup(text[:n_known])
        lengths.append(len(guess))
        n_known += len(guess) + 1
    assert lengths == sorted(lengths)
    assert lengths[-1] > lengths[0]

    # Every guess is wrong from here on: after the three tokens something else comes.
    lookup = PromptLookup([Source([1, 2, 3, *range(50, 70)])])
    context = [1, 2, 3]
    offered = []
    for strange in range(1000, 1006):
        offered.append(len(lookup(context)))
        context += [strange, 1, 2, 3]
    assert offered[0] > 0
    assert offered[-1] == 0
    lookup(context)
    assert lookup([*context, 1005, 1, 2, 3]) != []


@given(
    st.lists(st.lists(st.integers(0, 3), max_size=30), max_size=3),
    st.lists(st.integers(0, 3), max_size=60),
    st.data(),
)
def test_every_guess_is_a_continuation_that_was_seen(
    sources: list[list[int]], text: list[int], data: st.DataObject
) -> None:
    """Whatever the texts, a guess follows the last tokens somewhere in them."""
    lookup = PromptLookup(map(Source, sources))
    n_known = 0
    while n_known < len(text):
        n_known = data.draw(st.integers(n_known + 1, len(text)))
        context = text[:n_known]
        guess = lookup(context)
        if guess:
            wanted = [*context[-3:], *guess]
            texts = [context, *sources]
            assert any(
                wanted == source[start : start + len(wanted)]
                for source in texts
                for start in range(len(source))
            )
