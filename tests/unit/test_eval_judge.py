"""What the judge says of names in a tiny package, as a table."""

import pytest

from model_eval.dereferences import find_dereferences
from model_eval.judge import Judgement, Question, judge_names

EXISTS, MISSING, UNKNOWN = Judgement
MODULE = """\
import json
import os
from unknown import thing


class Base:
    def __init__(self):
        self.width = 1

    def area(self):
        return self.width


class Shape(Base):
    @property
    def name(self):
        return super().area()

    def open(self, path):
        return os.getcwd()

    def dump(self, json):
        return json.anything

    def guess(self):
        return thing.whatever

    def loop(self, others: list["Shape"]):
        for other in others:
            other.name

    def inside(self, others: list["Shape"]):
        return [other.name for other in others]
"""


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Judgement]:
    """Return what is said of each receiver's true name, of ``nothing`` and of ``width``."""
    folder = tmp_path_factory.mktemp("packages")
    path = folder / "tiny" / "shapes.py"
    path.parent.mkdir()
    (path.parent / "__init__.py").write_text("")
    path.write_text(MODULE)
    questions = [
        Question(path, dot, name)
        for dot in find_dereferences(MODULE, seed=0)
        for name in ("nothing", "width", "if")
    ]
    answers = judge_names(questions, search=folder, cache=folder / "cache")
    return {
        (q.dereference.receiver + "." + q.dereference.name, q.name): a
        for q, a in answers.items()
    }


@pytest.mark.parametrize(
    ("place", "name", "expected"),
    [
        ("self.width", "width", EXISTS),
        ("self.width", "nothing", MISSING),
        ("self.width", "if", UNKNOWN),
        ("super().area", "area", EXISTS),
        ("super().area", "nothing", MISSING),
        ("os.getcwd", "getcwd", EXISTS),
        ("os.getcwd", "nothing", MISSING),
        ("json.anything", "nothing", UNKNOWN),
        ("thing.whatever", "nothing", UNKNOWN),
    ],
)
def test_names(
    judged: dict[tuple[str, str], Judgement], place: str, name: str, expected: Judgement
) -> None:
    """Names are judged where the receiver is known, and nowhere else."""
    assert judged[place, name] is expected
