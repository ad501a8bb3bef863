"""What config.json says of a model, as a table of real and of wrong configurations."""

from typing import Any

import pytest

from model_export.architecture import end_of_text_id, read_architecture
from model_export.errors import DamagedCheckpointError, UnsupportedArchitectureError

CODEGEN_350M = {
    "model_type": "codegen",
    "architectures": ["CodeGenForCausalLM"],
    "activation_function": "gelu_new",
    "n_layer": 20,
    "n_head": 16,
    "n_embd": 1024,
    "n_inner": None,
    "rotary_dim": 32,
    "n_positions": 2048,
    "vocab_size": 51200,
    "layer_norm_epsilon": 1e-5,
    "eos_token_id": 50256,
}

# Salesforce's configurations: layers, heads, width, rotary_dim, head_dim -> head, mp_num.
PUBLISHED = {
    "codegen-350M": (20, 16, 1024, 32, None, 64, 4),
    "codegen-2B": (32, 32, 2560, 64, None, 80, 4),
    "codegen-6B": (33, 16, 4096, 64, None, 256, 4),
    "codegen-16B": (34, 24, 6144, 64, None, 256, 4),
    "codegen2-1B": (16, 16, 2048, 64, 128, 128, 8),
    "codegen2-3_7B": (16, 16, 4096, 64, 256, 256, 8),
}


def changed(**changes: Any) -> dict[str, Any]:
    """Return the configuration of codegen-350M with some values changed."""
    return CODEGEN_350M | changes


@pytest.mark.parametrize(
    ("n_layer", "n_head", "n_embd", "rotary_dim", "head_dim", "expected_head", "mp_num"),
    PUBLISHED.values(),
    ids=PUBLISHED,
)
def test_the_published_models_are_understood(
    n_layer: int,
    n_head: int,
    n_embd: int,
    rotary_dim: int,
    head_dim: int | None,
    expected_head: int,
    mp_num: int,
) -> None:
    """Every shape that Salesforce published gets its head size and packing right."""
    config = changed(n_layer=n_layer, n_head=n_head, n_embd=n_embd, rotary_dim=rotary_dim)
    if head_dim is not None:
        config["head_dim"] = head_dim

    architecture = read_architecture(config)

    assert architecture.n_layers == n_layer
    assert architecture.n_heads == n_head
    assert architecture.d_model == n_embd
    assert architecture.rotary_dim == rotary_dim
    assert architecture.head_dim == expected_head
    assert architecture.mp_num == mp_num
    assert architecture.d_ff == 4 * n_embd
    assert (architecture.vocab_size, architecture.context_length) == (51200, 2048)
    assert architecture.norm_epsilon == 1e-5


@pytest.mark.parametrize(
    ("head_dim", "mp_num"), [(128, 8), (256, 8), (64, 4), (80, 4), (None, 4), ("128", 4)]
)
def test_only_codegen2_head_sizes_mean_eight_groups(head_dim: object, mp_num: int) -> None:
    """The rule for CodeGen 2 looks at config.json's own head_dim and at nothing else."""
    assert read_architecture(changed(head_dim=head_dim)).mp_num == mp_num


CODEGEN25 = {
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "vocab_size": 51200,
    "rope_scaling": None,
    "tie_word_embeddings": False,
}
SMOLLM2 = CODEGEN25 | {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}


def test_codegen25_is_a_llama() -> None:
    """Its configuration says what Llama's does, with a head for each key."""
    architecture = read_architecture(CODEGEN25)

    assert (architecture.family, architecture.mp_num) == ("llama", 1)
    assert (architecture.n_layers, architecture.d_model, architecture.d_ff) == (32, 4096, 11008)
    assert (architecture.n_heads, architecture.n_kv_heads, architecture.head_dim) == (
        32,
        32,
        128,
    )
    assert (architecture.rotary_dim, architecture.rotary_base) == (128, 10000.0)
    assert (architecture.rotary_as_pairs, architecture.has_tied_head) == (False, False)
    assert (architecture.context_length, architecture.norm_epsilon) == (2048, 1e-6)


def test_smollm2_shares_keys_and_its_embedding() -> None:
    """Three queries share a key, and the head is the embedding."""
    architecture = read_architecture(SMOLLM2)

    assert (architecture.n_heads, architecture.n_kv_heads, architecture.head_dim) == (9, 3, 64)
    assert (architecture.rotary_base, architecture.has_tied_head) == (100000.0, True)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 500000.0},
        {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}},
        {"rope_theta": 500000.0, "rope_scaling": {"type": "default"}},
    ],
)
def test_the_rotary_base_is_found_wherever_it_stands(changes: dict[str, Any]) -> None:
    """Newer configurations hold it elsewhere; with the default a model would be another."""
    assert read_architecture(CODEGEN25 | changes).rotary_base == 500000.0


def test_of_several_ends_the_first_is_the_end_of_text() -> None:
    """Instruct models of this family list the end of a text and of an answer."""
    assert end_of_text_id(CODEGEN25 | {"eos_token_id": [7, 8]}) == 7


UNSUPPORTED_LLAMAS = {
    "stretched": ({"rope_scaling": {"rope_type": "llama3"}}, "rotary embedding"),
    "stretched in newer words": (
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}},
        "rotary embedding",
    ),
    "rotated in part": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    "gelu": ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    "biases": ({"attention_bias": True}, "attention_bias is True"),
    "odd head": ({"head_dim": 72}, "head size 72"),
}


@pytest.mark.parametrize(
    ("changes", "named"), UNSUPPORTED_LLAMAS.values(), ids=UNSUPPORTED_LLAMAS
)
def test_a_llama_with_parts_that_our_graph_lacks_is_refused(
    changes: dict[str, Any], named: str
) -> None:
    """What transformers would compute and our graph would not is named."""
    with pytest.raises(UnsupportedArchitectureError, match=named):
        read_architecture(CODEGEN25 | changes)


@pytest.mark.parametrize("changes", [{"num_key_value_heads": 5}, {"rope_theta": 0}])
def test_a_llama_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    """Keys are shared by groups of the same size, and angles have a base."""
    with pytest.raises(DamagedCheckpointError, match=min(changes)):
        read_architecture(CODEGEN25 | changes)


def test_the_number_of_groups_can_be_given() -> None:
    """A caller who knows better than the rule is believed."""
    assert read_architecture(changed(head_dim=128), mp_num=4).mp_num == 4


def test_what_config_json_leaves_out_has_codegens_defaults() -> None:
    """Old configurations without these keys mean the published defaults."""
    optional = ["n_inner", "n_positions", "layer_norm_epsilon", "activation_function"]
    config = {key: value for key, value in CODEGEN_350M.items() if key not in optional}

    assert read_architecture(config) == read_architecture(CODEGEN_350M)


def test_a_missing_rotary_size_is_transformers_default() -> None:
    """Without rotary_dim transformers rotates 64 numbers of a head, not the whole head."""
    config = changed(n_embd=4096)
    del config["rotary_dim"]

    assert read_architecture(config).head_dim == 256
    assert read_architecture(config).rotary_dim == 64


def test_an_inner_size_of_its_own_is_kept() -> None:
    """n_inner, where it is given, is the width of the feed-forward part."""
    assert read_architecture(changed(n_inner=1536)).d_ff == 1536


UNSUPPORTED = {
    "mistral": ({"model_type": "mistral"}, "mistral"),
    "gpt2": ({"model_type": "gpt2"}, "gpt2"),
    "class only": ({"model_type": None, "architectures": ["OPTModel"]}, "OPTModel"),
    "nothing": ({"model_type": None, "architectures": None}, "unnamed"),
    "odd class": ({"model_type": None, "architectures": 7}, "unnamed"),
    "relu": ({"activation_function": "relu"}, "relu"),
    "odd head": ({"n_embd": 1040, "n_head": 16}, "head size 65"),
    "odd rotary": ({"rotary_dim": 24}, "rotary_dim 24"),
    "rotary beyond the head": ({"rotary_dim": 80}, "rotary_dim 80"),
}


@pytest.mark.parametrize(("changes", "named"), UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_another_architecture_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    """A model that would run wrongly is refused, and the line says what was found."""
    with pytest.raises(UnsupportedArchitectureError, match=named) as caught:
        read_architecture(changed(**changes))

    assert len(str(caught.value).splitlines()) == 1


REQUIRED = ["n_layer", "n_head", "n_embd", "vocab_size"]
OPTIONAL = ["n_inner", "n_positions", "rotary_dim"]
WRONG = [0, -1, 2.5, "16", True, [16]]


@pytest.mark.parametrize("key", REQUIRED + OPTIONAL)
@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_a_size_that_is_no_positive_number_is_refused(key: str, value: object) -> None:
    """A wrong number in config.json is named before anything is computed with it."""
    with pytest.raises(DamagedCheckpointError, match=key):
        read_architecture(changed(**{key: value}))


@pytest.mark.parametrize("key", REQUIRED)
def test_a_size_that_is_missing_is_refused(key: str) -> None:
    """Sizes without a default must be there."""
    with pytest.raises(DamagedCheckpointError, match=f"{key} must be .* not None"):
        read_architecture(changed(**{key: None}))


@pytest.mark.parametrize("value", [0, -1e-5, "small", [1e-5], True, float("nan"), float("inf")])
def test_an_epsilon_that_makes_no_sense_is_refused(value: object) -> None:
    """LayerNorm's epsilon is a small positive number or the file is damaged."""
    with pytest.raises(DamagedCheckpointError, match="layer_norm_epsilon"):
        read_architecture(changed(layer_norm_epsilon=value))


def test_a_missing_epsilon_is_codegens() -> None:
    """A null epsilon means the default, as everywhere in config.json."""
    assert read_architecture(changed(layer_norm_epsilon=None)).norm_epsilon == 1e-5


@pytest.mark.parametrize(
    ("changes", "mp_num"),
    [
        ({"n_head": 15}, None),
        ({"n_head": 2, "rotary_dim": 64}, None),
        ({}, 0),
        ({}, -4),
        ({}, 3),
        ({}, 32),
        ({"n_head": 12, "n_embd": 768, "head_dim": 128}, None),
    ],
)
def test_heads_that_do_not_fit_the_groups_are_refused(
    changes: dict[str, Any], mp_num: int | None
) -> None:
    """No head may be spread over two groups: such weights would be read wrongly."""
    with pytest.raises(DamagedCheckpointError, match=r"n_head|mp_num"):
        read_architecture(changed(**changes), mp_num)


@pytest.mark.parametrize(
    ("vocab_size", "eos_token_id", "expected"),
    [
        (51200, 2, 50256),
        (51200, 50256, 50256),
        (51200, None, 50256),
        (6144, 6105, 6105),
        (50295, 2, 2),
        (6144, 0, 0),
    ],
)
def test_the_end_of_text_is_50256_in_codegens_own_vocabulary(
    vocab_size: int, eos_token_id: int | None, expected: int
) -> None:
    """Salesforce's early configurations name '#' as the end; others are believed."""
    config = changed(vocab_size=vocab_size, eos_token_id=eos_token_id)

    assert end_of_text_id(config) == expected


@pytest.mark.parametrize("value", [None, -1, "2", [2], True, 2.0])
def test_an_end_of_text_that_is_no_id_is_refused(value: object) -> None:
    """Without a known end, generation would not end."""
    with pytest.raises(DamagedCheckpointError, match="eos_token_id"):
        end_of_text_id(changed(vocab_size=6144, eos_token_id=value))
