"""What was shown and accepted, counted by several servers into one file."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lsp_server.acceptance import Statistics, describe, read_counts


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return where the counts are; nothing is there yet."""
    return tmp_path / "state" / "statistics"


def test_counts_are_added_to_what_is_there(file: Path) -> None:
    """Each server adds what it counted since it wrote last, and nothing twice."""
    for _ in range(2):
        statistics = Statistics(file)
        statistics.count_shown("turn", 60.0)
        statistics.count_accepted("turn")
        statistics.write()
        statistics.write()
    assert read_counts(file) == {
        "shown": 2, "shown turn": 2, "accepted": 2, "accepted turn": 2, "ms 100": 2
    }  # fmt: skip


def test_servers_side_by_side_lose_nothing(file: Path) -> None:
    """However many write at once, every count arrives."""

    def serve(_number: int) -> None:
        statistics = Statistics(file)
        for _ in range(5):
            statistics.count_shown("line", 9999.0)
            statistics.write()

    with ThreadPoolExecutor(4) as servers:
        list(servers.map(serve, range(4)))
    assert read_counts(file) == {"shown": 20, "shown line": 20, "ms more": 20}


def test_without_counts_nothing_is_written(file: Path) -> None:
    """Who never sees a completion has no file."""
    Statistics(file).write()
    assert not file.parent.exists()
    assert read_counts(file) == {}


def test_a_broken_file_costs_the_counts_alone(file: Path) -> None:
    """Whatever stands there is left as it is, and nobody fails for it."""
    file.parent.mkdir()
    file.write_bytes(b"no database" * 99)
    statistics = Statistics(file)
    statistics.count_accepted("turn")
    statistics.write()
    assert read_counts(file) == {}
    assert file.read_bytes() == b"no database" * 99


def test_counts_are_described_in_a_line() -> None:
    """The share that was accepted comes with the times in which most were shown."""
    counts = {
        "accepted": 3, "accepted turn": 3, "ms 100": 5, "ms 50": 4, "ms more": 1,
        "shown": 10, "shown line": 4, "shown turn": 6,
    }  # fmt: skip
    assert describe(counts) == (
        "3 of 10 accepted (30%; line 0 of 4, turn 3 of 6); "
        "half within 100 ms, 95 % within more than 5000 ms"
    )
    assert describe({}) == "nothing was shown yet"
