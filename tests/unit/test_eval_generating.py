"""Evaluation mode: samples that depend on nothing but their own names."""

import pytest

from lsp_server.truncation import truncate
from model_eval.generating import (
    End,
    Sampling,
    begin_case,
    prompt_tokens,
    seed_of,
    write,
)
from tests.fakes import EOS, ScriptedEngine, fake_model

SAMPLING = Sampling(temperature=0.2, top_p=0.95)


def cut(text: str) -> str | None:
    """Return what the published function leaves, once it cuts."""
    kept = truncate(text)
    return kept if len(kept) < len(text) else None


def test_writing_stops_as_soon_as_the_cut_is_known() -> None:
    """What would be thrown away is never written."""
    model = fake_model("x = 1\n# next\ny = 2\n")
    written = write(model, [1, 2], SAMPLING, max_new_tokens=100, seed=3, cut=cut)
    assert (written.text, written.end) == ("x = 1\n", End.CUT)
    assert written.n_tokens == len("x = 1\n#")


@pytest.mark.parametrize(("limit", "end"), [(5, End.LIMIT), (6, End.MODEL)])
def test_a_text_that_is_not_cut_says_why_it_ended(limit: int, end: End) -> None:
    """The model's own end and the limit are told apart."""
    written = write(fake_model("x = 1"), [1], SAMPLING, max_new_tokens=limit, seed=0, cut=cut)
    assert (written.text, written.end, written.n_tokens) == ("x = 1", end, 5)


def test_the_oldest_of_a_long_prompt_goes() -> None:
    """As the paper truncates, from the beginning, so that the budget is whole."""
    model = fake_model("", context_length=64)
    assert bytes(prompt_tokens(model, "a" * 100 + "b" * 40, 24)) == b"b" * 40
    assert prompt_tokens(model, "", 24) == [EOS]


def test_samples_that_share_a_prompt_find_the_same_in_the_cache() -> None:
    """Which of them comes first in a run changes nothing: all but the last token is there."""
    model = fake_model("x")
    engine = model.engine
    assert isinstance(engine, ScriptedEngine)
    begin_case(model, [1, 2, 3, 4])
    reused = []
    for seed in range(3):
        write(model, [1, 2, 3, 4], SAMPLING, max_new_tokens=4, seed=seed, cut=cut)
        reused.append(engine.reused_tokens)
    assert reused == [3, 3, 3]
    begin_case(model)
    write(model, [1, 2, 3, 4], SAMPLING, max_new_tokens=4, seed=0, cut=cut)
    assert engine.reused_tokens == 0


def test_a_seed_is_of_its_names_alone() -> None:
    """No two samples share one by chance, and every run has the same."""
    seeds = {seed_of(0, str(p), s, t) for p in range(9) for s in range(9) for t in range(9)}
    assert len(seeds) == 9**3
    assert seed_of(0, "1", 2, 3) == seed_of(0, "1", 2, 3) != seed_of(0, "12", 3)
