"""Settings as an editor sends them: good ones count, bad ones are named."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp_server.settings import Settings, read_settings, settings_schema, settings_table

README = Path(__file__).parents[2] / "README.md"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda values: (
        st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3)
    ),
    max_leaves=5,
)
KEYS = (
    "model",
    "device",
    "threads",
    "kvCache",
    "cacheMegabytes",
    "unloadAfterMinutes",
    "latencyBudgetMs",
    "deadlineMs",
    "maxNewTokens",
    "candidates",
    "checkDeadlineMs",
    "flagged",
    "suggest",
    "languages",
    "lines",
    "openFiles",
    "inComments",
    "hints",
    "statistics",
    "checks",
    "environment",
    "steering",
)


def test_all_settings_are_read() -> None:
    """Each field has its key in camelCase."""
    values = {
        "model": "m",
        "device": "cpu",
        "threads": 1,
        "kvCache": "int8",
        "cacheMegabytes": 9,
        "unloadAfterMinutes": 0,
        "latencyBudgetMs": 90,
        "deadlineMs": 80,
        "maxNewTokens": 7,
        "candidates": 1,
        "checkDeadlineMs": 0,
        "flagged": "last",
        "suggest": "quiet",
        "languages": {"c": False},
        "lines": "single",
        "openFiles": True,
        "inComments": True,
        "hints": True,
        "statistics": False,
        "checks": {"syntax": False},
        "environment": "/usr",
        "steering": False,
    }
    expected = Settings(
        *("m", "cpu", 1, "int8", 9, 0, 90, 80, 7, 1, 0, "last", "quiet"),
        languages={"c": False},
        lines="single",
        open_files=True,
        in_comments=True,
        hints=True,
        statistics=False,
        checks={"syntax": False},
        environment="/usr",
        steering=False,
    )
    assert read_settings(values) == (expected, [])


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("model", 5, "a text"),
        ("device", "tpu", "auto or cpu or cuda"),
        ("device", ["cpu"], "auto or cpu or cuda"),
        ("threads", 0, "a whole number from 1"),
        ("threads", 9999, "a whole number from 1"),
        ("kvCache", "fp8", "auto or float or int8"),
        ("maxNewTokens", 0, "a whole number from 1 to 1024"),
        ("maxNewTokens", 1025, "a whole number from 1 to 1024"),
        ("maxNewTokens", 8.0, "a whole number"),
        ("maxNewTokens", "8", "a whole number"),
        ("candidates", True, "a whole number from 1 to 10"),
        ("checkDeadlineMs", -1, "a whole number from 0 to 10000"),
        ("flagged", "show", "hide or last"),
        ("suggest", "never", "quiet or balanced or eager"),
        ("languages", ["c"], "an object of true and false"),
        ("languages", {"c": "off"}, "an object of true and false"),
        ("statistics", 0, "true or false"),
        ("steering", 1, "an object of true and false, or one of them for all"),
        ("steering", {"import": 0}, "an object of true and false, or one of them for all"),
    ],
)
def test_a_bad_value_costs_only_itself(key: str, value: object, reason: str) -> None:
    """The sentence names the setting, the value and what would be right."""
    good = {"candidates": 9} if key != "candidates" else {"maxNewTokens": 9}
    settings, (problem,) = read_settings({key: value, **good})
    assert settings == read_settings(good)[0]
    for part in (key, repr(value), reason):
        assert part in problem


@pytest.mark.parametrize(("value", "expected"), [(1, 1), (10, 10), (None, 3)])
def test_ends_of_a_range_are_allowed(value: int | None, expected: int) -> None:
    """The first and the last number are good, and null is no choice."""
    settings, problems = read_settings({"candidates": value})
    assert (settings.candidates, problems) == (expected, [])


@pytest.mark.parametrize("value", [True, False, {}, {"keyword": False, "brackets": True}])
def test_switches_may_be_thrown_together(value: object) -> None:
    """What has kinds can be switched as a whole, as it once was, or each kind."""
    settings, problems = read_settings({"steering": value})
    assert (settings.steering, problems) == (value, [])


def test_what_is_missing_comes_from_the_defaults() -> None:
    """What was said on the command line holds until the editor says otherwise."""
    defaults = Settings(model="given", candidates=5)
    assert read_settings({"candidates": 2}, defaults) == (Settings("given", candidates=2), [])
    assert read_settings({"device": "x"}, defaults)[0] == defaults
    assert read_settings(None, defaults) == (defaults, [])


def test_unknown_settings_are_named() -> None:
    """A misspelt key is told, once for each."""
    settings, problems = read_settings({"modle": "x", "Device": "cpu"})
    assert settings == Settings()
    assert problems == ["setting Device is unknown", "setting modle is unknown"]


@pytest.mark.parametrize("values", [[], "cpu", 5, True])
def test_settings_that_are_no_object(values: object) -> None:
    """Anything but an object is one problem and all defaults."""
    settings, problems = read_settings(values)
    assert (settings, len(problems)) == (Settings(), 1)


def test_the_readme_has_the_table_of_the_settings() -> None:
    """What is documented is what is read; `python -m lsp_server.settings` prints it."""
    assert settings_table() in README.read_text(encoding="utf-8")


def test_the_schema_allows_what_is_read() -> None:
    """Each default is of the type and within the limits that editors are told."""
    properties = settings_schema()["properties"]
    assert tuple(properties) == KEYS
    names = dict(
        zip(
            (type(None), str, int, bool, dict),
            ("null", "string", "integer", "boolean", "object"),
            strict=True,
        )
    )
    for schema in properties.values():
        default = schema["default"]
        assert names[type(default)] in schema["type"]
        assert default in schema.get("enum", [default])
        assert schema["description"]
    for key in ("threads", "candidates", "checkDeadlineMs"):
        ends = [properties[key]["minimum"], properties[key]["maximum"]]
        assert all(read_settings({key: end})[1] == [] for end in ends)
        assert all(read_settings({key: end})[1] for end in (ends[0] - 1, ends[1] + 1))


@given(JSON | st.dictionaries(st.sampled_from(KEYS) | st.text(), JSON, max_size=6))
def test_any_json_gives_settings(values: object) -> None:
    """Whatever a client sends, the settings are such as may be sent."""
    settings, _ = read_settings(values)
    sent = dict(zip(KEYS, vars(settings).values(), strict=True))
    assert read_settings(sent) == (settings, [])
