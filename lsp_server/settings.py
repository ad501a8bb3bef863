"""The settings an editor may send, checked one by one; a bad value costs only itself.

As a program it prints them, as the table of the README and as a JSON schema.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal

Allowed = type | tuple[str, ...] | range
"""A type of JSON values, the texts or the numbers that a setting may have."""


class Switches:
    """Stands for an object of true and false, or one of them for all."""


def _setting(key: str, default: Any, allowed: "Allowed", meaning: str) -> Any:
    metadata = {"key": key, "allowed": allowed, "meaning": meaning}
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """What a person may choose; the JSON keys are the fields' names in camelCase."""

    model: str | None = _setting(
        "model",
        None,
        str,
        "an exported folder, a checkpoint folder or a model's name; null: the command "
        "line's, else the embedded model",
    )
    device: Literal["auto", "cpu", "cuda"] = _setting(
        "device",
        "auto",
        ("auto", "cpu", "cuda"),
        "where the model runs; auto: where its folder was exported for",
    )
    threads: int | None = _setting(
        "threads",
        None,
        range(1, 257),
        "threads for the model; null: the physical cores, one fewer from four on",
    )
    kv_cache: Literal["auto", "float", "int8"] = _setting(
        "kvCache",
        "auto",
        ("auto", "float", "int8"),
        "how keys and values are kept; auto: int8 where that was measured to cost this "
        "model at most 0.5 % of bits per byte, once, when it is first loaded",
    )
    cache_megabytes: int = _setting(
        "cacheMegabytes",
        1024,
        range(1, 1 << 20),
        "the most that all KV caches take; where two do not fit there is one, and a shorter "
        "context if need be",
    )
    unload_after_minutes: int = _setting(
        "unloadAfterMinutes",
        15,
        range(100_000),
        "the model leaves the memory when nobody has typed for so long, and comes back with "
        "the next key; 0: never",
    )
    latency_budget_ms: int = _setting(
        "latencyBudgetMs",
        800,
        range(50, 60_001),
        "a prompt that takes longer to read is answered from the text nearest to the cursor, "
        "and read meanwhile",
    )
    deadline_ms: int = _setting(
        "deadlineMs",
        1000,
        range(50, 60_001),
        "when an automatic request is answered with the whole lines that stand by then, "
        "checked; the rest is there when they are accepted",
    )
    max_new_tokens: int = _setting(
        "maxNewTokens", 256, range(1, 1025), "the longest completion, in tokens"
    )
    candidates: int = _setting(
        "candidates",
        3,
        range(1, 11),
        "how many completions an explicit request gets at most; an automatic one gets one",
    )
    check_deadline_ms: int = _setting(
        "checkDeadlineMs",
        500,
        range(10_001),
        "how long an answer waits for its check; 0: no checks",
    )
    flagged: Literal["hide", "last"] = _setting(
        "flagged",
        "hide",
        ("hide", "last"),
        "what automatic requests do with completions that the check finds fault with",
    )
    suggest: Literal["quiet", "balanced", "eager"] = _setting(
        "suggest",
        "balanced",
        ("quiet", "balanced", "eager"),
        "how sure the model must be of what automatic requests show; eager: never mind, as "
        "long as the check finds no fault",
    )
    languages: Mapping[str, bool] = _setting(
        "languages",
        {},
        Mapping,
        "language ids of the editor with false where nothing is to be completed",
    )
    lines: Literal["auto", "single"] = _setting(
        "lines",
        "auto",
        ("auto", "single"),
        "how much automatic requests show; single: the first line, and the next one once it "
        "is accepted",
    )
    open_files: bool = _setting(
        "openFiles",
        False,
        bool,
        "whether the model also reads what a Python file imports from other open files, "
        "above the file; then a suggested turn's prompt is more than its file, while the "
        "commands that write turns keep to it",
    )
    in_comments: bool = _setting(
        "inComments",
        False,
        bool,
        "whether the rest of a line is completed in comments and strings too",
    )
    hints: bool = _setting(
        "hints",
        False,
        bool,
        "whether inlay hints show how surprising each turn's prompt is to the model "
        "(its perplexity), and which programs are stale",
    )
    statistics: bool = _setting(
        "statistics",
        True,
        bool,
        "whether shown and accepted completions are counted, on this machine only, for "
        "`codegen-lsp doctor`",
    )
    checks: Mapping[str, bool] = _setting(
        "checks",
        {},
        Mapping,
        "kinds of problems with false where they are not looked for: syntax, undefined-name, "
        "unresolved-import, unknown-attribute, wrong-argument",
    )
    environment: str | None = _setting(
        "environment",
        None,
        str,
        "the folder of the Python environment whose packages the check reads, as files: "
        "nothing in it is run; null: `.venv`, `venv` or `env` in the project's folder",
    )
    steering: Mapping[str, bool] | bool = _setting(
        "steering",
        {},
        Switches,
        "what is kept to in Python while it is written, with false where not: names that "
        "jedi is sure of, after a dot (attribute), in imports (import) and as keywords of "
        "calls (keyword), and the brackets that are open (brackets); false: none of them",
    )


def read_settings(
    values: object, defaults: Settings | None = None
) -> tuple[Settings, list[str]]:
    """Return the settings that a client sent, and a sentence for each bad value.

    Bad and missing values take those of ``defaults``.
    """
    defaults = defaults or Settings()
    if values is None:
        return defaults, []
    if not isinstance(values, Mapping):
        return defaults, [f"settings must be an object, not {type(values).__name__}"]
    chosen = {}
    problems = []
    known = set()
    for setting in fields(Settings):
        key, allowed = setting.metadata["key"], setting.metadata["allowed"]
        known.add(key)
        value = values.get(key)
        default = getattr(defaults, setting.name)
        chosen[setting.name] = default
        if value is None:
            continue
        if _is_allowed(value, allowed):
            chosen[setting.name] = value
        else:
            problems.append(
                f"setting {key}: {value!r} is not {_describe(allowed)}; using {default!r}"
            )
    unknown = sorted(str(key) for key in values if key not in known)
    problems += [f"setting {key} is unknown" for key in unknown]
    return Settings(**chosen), problems


def settings_schema() -> dict[str, Any]:
    """Return the JSON schema of what may be sent."""
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            setting.metadata["key"]: {
                **_schema(setting.metadata["allowed"], _default(setting)),
                "default": _default(setting),
                "description": setting.metadata["meaning"],
            }
            for setting in fields(Settings)
        },
    }


def settings_table() -> str:
    """Return all settings as a Markdown table."""
    rows = ["| key | values | default | meaning |", "|---|---|---|---|"]
    for setting in fields(Settings):
        key, default = setting.metadata["key"], json.dumps(_default(setting))
        values = _describe(setting.metadata["allowed"])
        rows.append(f"| `{key}` | {values} | `{default}` | {setting.metadata['meaning']} |")
    return "\n".join(rows) + "\n"


def _default(setting: "Field[Any]") -> Any:
    return getattr(Settings(), setting.name)


def _schema(allowed: "Allowed", default: Any) -> dict[str, Any]:
    if isinstance(allowed, tuple):
        return {"type": "string", "enum": list(allowed)}
    if allowed is Mapping or allowed is Switches:
        kinds: Any = "object" if allowed is Mapping else ["object", "boolean"]
        return {"type": kinds, "additionalProperties": {"type": "boolean"}}
    if isinstance(allowed, range):
        kind, limits = "integer", {"minimum": allowed[0], "maximum": allowed[-1]}
    else:
        kind, limits = "boolean" if allowed is bool else "string", {}
    return {"type": kind if default is not None else [kind, "null"], **limits}


def _is_allowed(value: object, allowed: "Allowed") -> bool:
    if allowed is Switches and isinstance(value, bool):
        return True
    if allowed is Mapping or allowed is Switches:
        return isinstance(value, Mapping) and all(
            isinstance(key, str) and isinstance(item, bool) for key, item in value.items()
        )
    if isinstance(allowed, type):
        return isinstance(value, allowed)
    if isinstance(allowed, range):
        return isinstance(value, int) and not isinstance(value, bool) and value in allowed
    return isinstance(value, str) and value in allowed


def _describe(allowed: "Allowed") -> str:
    if allowed is Mapping:
        return "an object of true and false"
    if allowed is Switches:
        return "an object of true and false, or one of them for all"
    if isinstance(allowed, type):
        return "true or false" if allowed is bool else "a text"
    if isinstance(allowed, range):
        return f"a whole number from {allowed[0]} to {allowed[-1]}"
    return " or ".join(allowed)


if __name__ == "__main__":
    sys.stdout.write(settings_table())
    sys.stdout.write(f"\n{json.dumps(settings_schema(), indent=2)}\n")
