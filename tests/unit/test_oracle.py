"""What is lost or written twice of an answer that is right.

The engine recites the file that the place was taken from, so that whatever differs from what
stood there is the doing of rules, endings and cuts. Places are chosen by a seed, in files of
the standard library and of this project, as they are and with tabs or CR LF.
"""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.judge import find_faults
from benchmarks.places import Place, find_places
from lsp_server import completion
from lsp_server.completion import complete
from lsp_server.plan import Snapshot, plan_completion
from tests.fakes import fake_model

FOLDERS = (Path(sysconfig.get_path("stdlib")), Path(completion.__file__).parent)
N_PLACES = 300
PER_FILE = 8
FEWEST_BYTES, MOST_BYTES = 1000, 6000
LONGEST = 1 << 16


def places() -> Iterator[Place]:
    """Yield places that are the same in each run on one Python."""
    rng = np.random.default_rng(5)
    for folder in FOLDERS:
        found = [
            path
            for path in sorted(folder.glob("*.py"))
            if FEWEST_BYTES <= path.stat().st_size <= MOST_BYTES
        ]
        for index in rng.permutation(len(found)):
            path = found[index]
            text = path.read_text(encoding="utf-8")
            yield from find_places(path.name, text, PER_FILE, rng)


def answer_of(place: Place) -> str | None:
    """Return what is inserted when the model knows the file by heart.

    None: the file repeats itself as a model does that is in a loop, and it was led out of it.
    """
    whole = place.before + place.expected + place.after
    is_led_away = False

    def recite(prompt: str) -> str:
        nonlocal is_led_away
        is_led_away = is_led_away or not whole.startswith(prompt)
        return whole[len(prompt) :]

    snapshot = Snapshot(place.text, place.offset)
    found = complete(fake_model(recite, LONGEST), snapshot, max_new_tokens=1000)
    text = "".join(candidate.insert_text for candidate in found.candidates)
    return None if is_led_away else text


def test_what_is_right_is_neither_lost_nor_written_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answer is what stood there or a beginning of it, and nothing where nothing misses.

    Of a bracket that is closed on a line below only the line is filled.
    """
    # A byte is a token here.
    monkeypatch.setattr(completion, "_MAX_LINE_TOKENS", 1000)
    n_places = n_whole = n_missing = 0
    for place in places():
        if isinstance(plan_completion(Snapshot(place.text, place.offset)), str):
            # Inside a word or a string nothing is offered.
            continue
        inserted = answer_of(place)
        if inserted is None:
            continue
        answer = inserted.replace("\r\n", "\n").rstrip()
        expected = place.expected.rstrip()
        assert expected.startswith(answer), place
        assert bool(answer) is bool(expected.strip()), place
        assert answer == "" or find_faults(place, inserted) == {}, place
        n_places += 1
        n_missing += bool(answer)
        n_whole += answer == expected and bool(answer)
        if n_places == N_PLACES:
            break
    assert n_places == N_PLACES
    assert n_whole >= 0.9 * n_missing
