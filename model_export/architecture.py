"""The facts of a model that decide its graph; reads config.json and no weights.

CodeGen 1 and 2 are one family, CodeGen 2.5 is of the other: Llama's.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from model_export.errors import DamagedCheckpointError, UnsupportedArchitectureError

_CODEGEN_VOCAB_SIZE = 51200
_GPT2_END_OF_TEXT = 50256
_CODEGEN2_HEAD_DIMS = (128, 256)
_CODEGEN_ROTARY_DIM = 64
_ROTARY_BASE = 10000.0

ROTARY_AS_PAIRS = "rotary_as_pairs"
"""Our own key of a configuration: whether rotary embedding turns neighbouring numbers, as
GGUF files of Llama are stored for, or those half a head apart."""

Family = Literal["codegen", "llama"]


@dataclass(frozen=True)
class Architecture:
    """Shapes and constants of one model; all sizes are in elements."""

    family: Family
    n_layers: int
    n_heads: int
    n_kv_heads: int
    """Heads of keys and values; fewer than ``n_heads`` are shared by groups of queries."""
    head_dim: int
    d_model: int
    d_ff: int
    rotary_dim: int
    rotary_base: float
    rotary_as_pairs: bool
    """Whether rotary embedding turns neighbouring numbers of a head."""
    vocab_size: int
    context_length: int
    norm_epsilon: float
    has_tied_head: bool
    """Whether the embedding is the head's weight too."""
    mp_num: int
    """In how many groups the checkpoint packs q, v and k: 4 or 8 (CodeGen 2), 1 if none."""


_LARGEST = 1 << 20
"""No size of a model is larger; what is would only fill the memory."""


def read_architecture(config: dict[str, Any], mp_num: int | None = None) -> Architecture:
    """Return the architecture that a Hugging Face ``config.json`` describes.

    ``mp_num`` overrides the rule for the number of packed groups. The rule is
    CTranslate2's: CodeGen 2's configurations hold ``head_dim`` 128 or 256.

    Raises:
        UnsupportedArchitectureError: the model is of neither family, or uses a part of
            its family that no CodeGen model has.
        DamagedCheckpointError: a value is missing or makes no sense.
    """
    match config.get("model_type"):
        case "codegen":
            architecture = _codegen(config, mp_num)
        case "llama":
            architecture = _llama(config)
        case model_type:
            classes = config.get("architectures")
            names = ", ".join(map(str, classes)) if isinstance(classes, list) else ""
            found = model_type or names or "unnamed"
            raise UnsupportedArchitectureError(
                f"the checkpoint's architecture is {found!r}; supported are 'codegen' "
                "(Salesforce CodeGen 1 and 2) and 'llama' (CodeGen 2.5 and others)"
            )
    head_dim, rotary_dim = architecture.head_dim, architecture.rotary_dim
    # These are the limits of GroupQueryAttention's rotary kernels.
    if head_dim % 16 or rotary_dim % 16 or rotary_dim > head_dim:
        raise UnsupportedArchitectureError(
            f"head size {head_dim} with rotary_dim {rotary_dim} is not supported: both "
            "must be multiples of 16, and rotary_dim no larger than the head"
        )
    return architecture


def _codegen(config: dict[str, Any], mp_num: int | None) -> Architecture:
    """See transformers' configuration_codegen.py."""
    _expect(config, "activation_function", "gelu_new")
    n_heads = _positive(config, "n_head")
    d_model = _positive(config, "n_embd")
    if d_model % n_heads:
        raise DamagedCheckpointError(
            f"config.json: n_embd {d_model} is not a multiple of n_head {n_heads}"
        )
    if mp_num is None:
        mp_num = 8 if config.get("head_dim") in _CODEGEN2_HEAD_DIMS else 4
    if mp_num < 1 or n_heads % mp_num:
        raise DamagedCheckpointError(
            f"n_head {n_heads} cannot be split into mp_num {mp_num} groups"
        )
    return Architecture(
        family="codegen",
        n_layers=_positive(config, "n_layer"),
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=d_model // n_heads,
        d_model=d_model,
        d_ff=_positive(config, "n_inner", 4 * d_model),
        rotary_dim=_positive(config, "rotary_dim", _CODEGEN_ROTARY_DIM),
        rotary_base=_ROTARY_BASE,
        rotary_as_pairs=True,
        vocab_size=_positive(config, "vocab_size"),
        context_length=_positive(config, "n_positions", 2048),
        norm_epsilon=_number(config, "layer_norm_epsilon", 1e-5),
        has_tied_head=False,
        mp_num=mp_num,
    )


def _llama(config: dict[str, Any]) -> Architecture:
    """See transformers' configuration_llama.py."""
    _expect(config, "hidden_act", "silu")
    _expect(config, "attention_bias", False)
    _expect(config, "mlp_bias", False)
    rotary = _rotary(config)
    n_heads = _positive(config, "num_attention_heads")
    n_kv_heads = _positive(config, "num_key_value_heads", n_heads)
    d_model = _positive(config, "hidden_size")
    head_dim = _positive(config, "head_dim", max(1, d_model // n_heads))
    if n_heads % n_kv_heads:
        raise DamagedCheckpointError(
            f"config.json: num_attention_heads {n_heads} is not a multiple of "
            f"num_key_value_heads {n_kv_heads}"
        )
    return Architecture(
        family="llama",
        n_layers=_positive(config, "num_hidden_layers"),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        d_model=d_model,
        d_ff=_positive(config, "intermediate_size"),
        rotary_dim=head_dim,
        rotary_base=_number(rotary, "rope_theta", _ROTARY_BASE),
        rotary_as_pairs=config.get(ROTARY_AS_PAIRS) is True,
        vocab_size=_positive(config, "vocab_size"),
        context_length=_positive(config, "max_position_embeddings", 2048),
        norm_epsilon=_number(config, "rms_norm_eps", 1e-6),
        has_tied_head=config.get("tie_word_embeddings") is True,
        mp_num=1,
    )


def _rotary(config: dict[str, Any]) -> dict[str, Any]:
    """Return where the angles' base is, and refuse what stretches or leaves out angles.

    Newer configurations hold all of it in ``rope_parameters``.
    """
    parameters = config.get("rope_parameters")
    scaling = config.get("rope_scaling")
    for values in (parameters, scaling):
        if values is None:
            continue
        kind = values.get("rope_type", values.get("type")) if isinstance(values, dict) else ""
        if kind not in (None, "default"):
            raise UnsupportedArchitectureError(
                f"the checkpoint stretches its rotary embedding ({values!r}), which is not "
                "supported"
            )
    rotary = parameters if isinstance(parameters, dict) else config
    for values in (rotary, config):
        _expect(values, "partial_rotary_factor", 1.0)
    return rotary


def end_of_text_id(config: dict[str, Any]) -> int:
    """Return the id that ends a text; of several the first.

    Early configurations of CodeGen's 51,200 words say 2, which is ``#`` there; the true
    id is always 50256.
    """
    is_codegen = config.get("model_type") == "codegen"
    if is_codegen and config.get("vocab_size") == _CODEGEN_VOCAB_SIZE:
        return _GPT2_END_OF_TEXT
    value = config.get("eos_token_id")
    if isinstance(value, list) and value and not is_codegen:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DamagedCheckpointError(f"config.json: eos_token_id must be an id, not {value!r}")
    return int(value)


def _positive(config: dict[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None:
        value = default
    if type(value) is not int or value not in range(1, _LARGEST + 1):
        raise DamagedCheckpointError(
            f"config.json: {key} must be a positive whole number of a sane size, not {value!r}"
        )
    return value


def _number(config: dict[str, Any], key: str, default: float) -> float:
    value = config.get(key)
    if value is None:
        value = default
    if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
        raise DamagedCheckpointError(
            f"config.json: {key} must be a number above 0, not {value!r}"
        )
    return float(value)


def _expect(config: dict[str, Any], key: str, expected: str | bool | float) -> None:
    value = config.get(key)
    if value is not None and value != expected:
        raise UnsupportedArchitectureError(
            f"the checkpoint's {key} is {value!r}; supported is {expected!r}"
        )
