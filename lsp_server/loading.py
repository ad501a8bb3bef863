"""Opens a model for completing; imports onnxruntime, so whoever needs it imports it late."""

from pathlib import Path

from lsp_server.completion import Model
from lsp_server.engine import Device, Engine
from lsp_server.tokenizer import Tokenizer
from model_export.manifest import TOKENIZER_FILE, read_manifest


def open_model(folder: Path, device: Device = "auto") -> Model:
    """Return the model of an exported folder.

    Raises:
        ModelLoadError: the folder cannot be run here.
    """
    engine = Engine.open(folder, device)
    tokenizer = Tokenizer.from_file(folder / TOKENIZER_FILE)
    return Model(read_manifest(folder).source.name, engine, tokenizer)
