"""The record of a run: one JSON object a line, only ever appended to.

A run that was killed goes on after its last whole line. It knows nothing of what is
recorded.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_eval.errors import RunError


class Record:
    """The lines of one run; the first one says what was measured and how."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Begin a record, or go on with one.

        Raises:
            RunError: there is a record of a run with other settings, or something else.
        """
        self._path = path
        self.lines: list[dict[str, Any]] = []
        try:
            self._open(json.loads(json.dumps(settings)))
        except OSError as error:
            raise RunError(f"{path} cannot be used: {error.strerror}") from error

    def add(self, line: Mapping[str, Any]) -> None:
        """Append a line; when this returns it outlives the process."""
        self.lines.append(dict(line))
        self._append(line)

    def _open(self, wanted: dict[str, Any]) -> None:
        path = self._path
        if path.exists():
            header, *self.lines = self._whole_lines(wanted) or [wanted]
            if header != wanted:
                raise RunError(
                    f"{path} is the record of a run with other settings; "
                    "name another file, or delete this one"
                )
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or not path.stat().st_size:
            self._append(wanted)

    def _append(self, line: Mapping[str, Any]) -> None:
        with self._path.open("ab") as file:
            file.write(_line(line))
            file.flush()
            os.fsync(file.fileno())

    def _whole_lines(self, header: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the lines; what a killed run left of its last one goes."""
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
        except ValueError:
            lines = []
        is_begun = not whole and _line(header).startswith(data)
        if not lines and not is_begun:
            raise RunError(f"{self._path} is no record of a run; name another file")
        if len(whole) < len(data):
            with self._path.open("r+b") as file:
                file.truncate(len(whole))
        return lines


@dataclass(frozen=True)
class SavedRun:
    """What a record says was measured, and its whole lines."""

    settings: dict[str, Any]
    lines: list[dict[str, Any]]


def read_record(path: Path) -> SavedRun:
    """Return what is recorded, perhaps while a run goes on; nothing is changed.

    Raises:
        RunError: there is no record.
    """
    try:
        data = path.read_bytes()
        header, *lines = map(json.loads, data[: data.rfind(b"\n") + 1].splitlines())
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RunError(f"{path} is no record of a run; name another file") from error
    if not isinstance(header, dict):
        raise RunError(f"{path} is no record of a run; name another file")
    return SavedRun(header, lines)


def _line(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value) + "\n").encode()
