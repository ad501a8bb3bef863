"""The settings an editor may send, checked one by one; a bad value costs only itself."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal


def _setting(key: str, default: Any, allowed: "type | tuple[str, ...] | range") -> Any:
    return field(default=default, metadata={"key": key, "allowed": allowed})


@dataclass(frozen=True)
class Settings:
    """What a person may choose; the JSON keys are the fields' names in camelCase."""

    model: str | None = _setting("model", None, str)
    """An exported folder, a checkpoint folder or a model's name.

    Null: that of the command line, else the embedded one.
    """
    device: Literal["auto", "cpu", "cuda"] = _setting("device", "auto", ("auto", "cpu", "cuda"))
    """Where the model runs; auto: where its folder was exported for."""
    threads: int | None = _setting("threads", None, range(1, (os.cpu_count() or 1) + 1))
    """Null: the physical cores, one fewer from four on."""
    kv_cache: Literal["auto", "float", "int8"] = _setting(
        "kvCache", "auto", ("auto", "float", "int8")
    )
    """Auto: int8 where that was measured to cost this model next to nothing."""
    cache_megabytes: int = _setting("cacheMegabytes", 1024, range(1, 1 << 20))
    """All KV caches together; where two do not fit there is one, and a shorter context."""
    unload_after_minutes: int = _setting("unloadAfterMinutes", 15, range(100_000))
    """The model leaves the memory when nobody types for so long; 0: never."""
    latency_budget_ms: int = _setting("latencyBudgetMs", 800, range(50, 60_001))
    """A prompt that takes longer to read is answered from the text nearest the cursor."""
    max_new_tokens: int = _setting("maxNewTokens", 256, range(1, 1025))
    """The longest completion, in tokens."""
    candidates: int = _setting("candidates", 3, range(1, 11))
    """How many completions an explicit request gets; an automatic one gets one."""
    check_deadline_ms: int = _setting("checkDeadlineMs", 500, range(10_001))
    """How long an answer waits for its check; 0: completions are not checked."""
    flagged: Literal["hide", "last"] = _setting("flagged", "hide", ("hide", "last"))
    """What automatic requests do with completions that the check finds fault with."""


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


def _is_allowed(value: object, allowed: "type | tuple[str, ...] | range") -> bool:
    if isinstance(allowed, type):
        return isinstance(value, allowed)
    if isinstance(allowed, range):
        return isinstance(value, int) and not isinstance(value, bool) and value in allowed
    return isinstance(value, str) and value in allowed


def _describe(allowed: "type | tuple[str, ...] | range") -> str:
    if isinstance(allowed, type):
        return "a text"
    if isinstance(allowed, range):
        return f"a whole number from {allowed[0]} to {allowed[-1]}"
    return " or ".join(allowed)
