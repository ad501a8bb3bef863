"""The facts of a CodeGen model that decide its graph; reads config.json and no weights."""

import math
from dataclasses import dataclass
from typing import Any

from model_export.errors import DamagedCheckpointError, UnsupportedArchitectureError

_CODEGEN_VOCAB_SIZE = 51200
_GPT2_END_OF_TEXT = 50256
_CODEGEN2_HEAD_DIMS = (128, 256)
_DEFAULT_ROTARY_DIM = 64
_DEFAULT_EPSILON = 1e-5


@dataclass(frozen=True)
class Architecture:
    """Shapes and constants of one CodeGen model; all sizes are in elements."""

    n_layers: int
    n_heads: int
    head_dim: int
    d_model: int
    d_ff: int
    rotary_dim: int
    vocab_size: int
    context_length: int
    layer_norm_epsilon: float
    mp_num: int
    """In how many groups the checkpoint packs q, v and k: 4 or 8 (CodeGen 2)."""


_LARGEST = 1 << 20
"""No size of a model is larger; what is would only fill the memory."""


def read_architecture(config: dict[str, Any], mp_num: int | None = None) -> Architecture:
    """Return the architecture that a Hugging Face ``config.json`` describes.

    ``mp_num`` overrides the rule for the number of packed groups. The rule is
    CTranslate2's: CodeGen 2's configurations hold ``head_dim`` 128 or 256.

    Raises:
        UnsupportedArchitectureError: the model is not of the CodeGen architecture.
        DamagedCheckpointError: a value is missing or makes no sense.
    """
    model_type = config.get("model_type")
    if model_type != "codegen":
        classes = config.get("architectures")
        names = ", ".join(map(str, classes)) if isinstance(classes, list) else ""
        found = model_type or names or "unnamed"
        raise UnsupportedArchitectureError(
            f"the checkpoint's architecture is {found!r}; supported is 'codegen' "
            "(Salesforce CodeGen 1 and 2)"
        )
    activation = config.get("activation_function", "gelu_new")
    if activation != "gelu_new":
        raise UnsupportedArchitectureError(
            f"the checkpoint's activation is {activation!r}; CodeGen's is 'gelu_new'"
        )
    n_heads = _positive(config, "n_head")
    d_model = _positive(config, "n_embd")
    if d_model % n_heads:
        raise DamagedCheckpointError(
            f"config.json: n_embd {d_model} is not a multiple of n_head {n_heads}"
        )
    head_dim = d_model // n_heads
    rotary_dim = _positive(config, "rotary_dim", _DEFAULT_ROTARY_DIM)
    # These are the limits of GroupQueryAttention's rotary kernels.
    if head_dim % 16 or rotary_dim % 16 or rotary_dim > head_dim:
        raise UnsupportedArchitectureError(
            f"head size {head_dim} with rotary_dim {rotary_dim} is not supported: both "
            "must be multiples of 16, and rotary_dim no larger than the head"
        )
    if mp_num is None:
        mp_num = 8 if config.get("head_dim") in _CODEGEN2_HEAD_DIMS else 4
    if mp_num < 1 or n_heads % mp_num:
        raise DamagedCheckpointError(
            f"n_head {n_heads} cannot be split into mp_num {mp_num} groups"
        )
    return Architecture(
        n_layers=_positive(config, "n_layer"),
        n_heads=n_heads,
        head_dim=head_dim,
        d_model=d_model,
        d_ff=_positive(config, "n_inner", 4 * d_model),
        rotary_dim=rotary_dim,
        vocab_size=_positive(config, "vocab_size"),
        context_length=_positive(config, "n_positions", 2048),
        layer_norm_epsilon=_epsilon(config),
        mp_num=mp_num,
    )


def end_of_text_id(config: dict[str, Any]) -> int:
    """Return the id that ends a text.

    Early configurations of the 51,200-word family say 2, which is ``#`` in its
    vocabulary; the true id there is always 50256.
    """
    if config.get("vocab_size") == _CODEGEN_VOCAB_SIZE:
        return _GPT2_END_OF_TEXT
    value = config.get("eos_token_id")
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


def _epsilon(config: dict[str, Any]) -> float:
    value = config.get("layer_norm_epsilon")
    if value is None:
        value = _DEFAULT_EPSILON
    if not isinstance(value, float) or not math.isfinite(value) or value <= 0:
        raise DamagedCheckpointError(
            f"config.json: layer_norm_epsilon must be a small number above 0, not {value!r}"
        )
    return value
