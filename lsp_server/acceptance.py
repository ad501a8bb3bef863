"""Counts what was shown and accepted, on this machine only; no text, no names of files.

Several servers may count into one file. It knows neither LSP nor any model.
"""

import contextlib
import sqlite3
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import platformdirs

_FILE = "statistics.sqlite3"
_EVERY_S = 60.0
_DEADLINE_S = 1.0
"""So long a server waits for others that write."""
_TIMES_MS = (50, 100, 200, 500, 1000, 2000, 5000)


def statistics_file() -> Path:
    """Return where this user's statistics are."""
    return platformdirs.user_state_path("codegen-lsp") / _FILE


class Statistics:
    """What one server counted and has not written yet; safe from any thread.

    A file that cannot be written costs the counts alone.
    """

    def __init__(self, file: Path) -> None:
        """Write nothing yet."""
        self._file = file
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def count_shown(self, rule: str, ms: float) -> None:
        """Count a completion that was shown so long after it was asked for."""
        under = next((time for time in _TIMES_MS if ms < time), None)
        self._count("shown", f"shown {rule}", f"ms {under or 'more'}")

    def count_accepted(self, rule: str) -> None:
        """Count a completion that somebody accepted."""
        self._count("accepted", f"accepted {rule}")

    def write(self) -> None:
        """Add what was counted to the file; it may wait for other servers."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        if counts:
            # The loss of some counts is nothing that anybody must be told.
            with contextlib.suppress(OSError, sqlite3.Error):
                _add(self._file, counts)

    def _count(self, *names: str) -> None:
        with self._lock:
            self._counts.update(names)
            if self._timer is None:
                self._timer = threading.Timer(_EVERY_S, self.write)
                self._timer.daemon = True
                self._timer.start()


def read_counts(file: Path) -> dict[str, int]:
    """Return all counts of a file by their names, none where it cannot be read."""
    if not file.is_file():
        return {}
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=_DEADLINE_S)) as database:
            return dict(database.execute("SELECT name, n FROM counts ORDER BY name"))
    except sqlite3.Error:
        return {}


def describe(counts: Mapping[str, int]) -> str:
    """Return a line about counts: how much was accepted, and how soon it was shown."""
    n_shown, n_accepted = counts.get("shown", 0), counts.get("accepted", 0)
    if not n_shown:
        return "nothing was shown yet"
    times = [(f"{time} ms", counts.get(f"ms {time}", 0)) for time in _TIMES_MS]
    rules = (name.removeprefix("shown ") for name in counts if name.startswith("shown "))
    by_rule = ", ".join(
        f"{rule} {counts.get(f'accepted {rule}', 0)} of {counts[f'shown {rule}']}"
        for rule in rules
    )
    return (
        f"{n_accepted} of {n_shown} accepted ({n_accepted / n_shown:.0%}; {by_rule}); "
        f"half within {_share_within(times, n_shown, 0.5)}, "
        f"95 % within {_share_within(times, n_shown, 0.95)}"
    )


def _share_within(times: list[tuple[str, int]], n_all: int, share: float) -> str:
    n_within = 0
    for name, n_shown in times:
        n_within += n_shown
        if n_within >= share * n_all:
            return name
    return f"more than {times[-1][0]}"


def _add(file: Path, counts: Mapping[str, int]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(file, timeout=_DEADLINE_S)) as database, database:
        database.execute(
            "CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, n INTEGER NOT NULL)"
        )
        database.executemany(
            "INSERT INTO counts VALUES (?, ?) "
            "ON CONFLICT (name) DO UPDATE SET n = n + excluded.n",
            counts.items(),
        )
