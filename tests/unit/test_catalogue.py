"""The table of models."""

import math

import pytest

from lsp_server.models import embedded_checkpoint
from model_export.catalogue import MODELS, WheelFile, find_model
from model_export.checkpoint import open_checkpoint
from model_export.hub import HUB_ID

_NAMES = {
    "tiny": None,
    "codegen-350m-mono": "Salesforce/codegen-350M-mono",
    "codegen-16b-nl": "Salesforce/codegen-16B-nl",
    "codegen2-3.7b": "Salesforce/codegen2-3_7B_P",
    "codegen2-1b": "Salesforce/codegen2-1B_P",
    "codegen25-7b-multi": "Salesforce/codegen25-7b-multi_P",
}


@pytest.mark.parametrize("name", _NAMES)
def test_names_are_those_of_the_published_models(name: str) -> None:
    """A name leads to its repository, in any case, and the repository to its name."""
    model = find_model(name.upper())
    assert model is not None
    assert (model.name, model.origin) == (name, _NAMES[name])
    assert find_model(model.key.lower()) is model


def test_each_name_stands_for_one_model() -> None:
    """No two entries share a name or a source, and sizes shrink with the precision."""
    assert len({model.name for model in MODELS}) == len({model.key for model in MODELS}) == 20
    for model in MODELS:
        assert model.n_embedded < model.n_parameters
        assert isinstance(model.origin, WheelFile | None) or HUB_ID.fullmatch(model.origin)
        sizes = model.size_mb()
        assert sizes["fp32"] > sizes["int8"] > sizes["int4"] > 0
    assert find_model("no/model") is None


def test_the_embedded_model_is_the_one_described() -> None:
    """Its parameters are counted."""
    tensors = open_checkpoint(embedded_checkpoint()).tensors
    sizes = {name: tensor.shape for name, tensor in tensors.items()}
    n_parameters = sum(math.prod(shape) for shape in sizes.values())
    n_embedded = math.prod(sizes["transformer.wte.weight"])
    assert (MODELS[0].n_parameters, MODELS[0].n_embedded) == (n_parameters, n_embedded)
