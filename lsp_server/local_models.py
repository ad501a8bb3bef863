"""The models of this machine, for the server; imports what runs them once one is opened.

So the server answers ``initialize`` before onnxruntime is loaded.
"""

from pathlib import Path

from lsp_server.models import Progress, exported_folder
from lsp_server.serving_model import Model
from lsp_server.settings import Settings


class LocalModels:
    """What ``lsp_server.model_host`` gets its models from."""

    def prepare(self, settings: Settings, progress: Progress) -> Path:
        """Return the exported folder of the model that the settings name.

        Raises:
            ServingError: there is no such model here, or it cannot be exported.
        """
        return exported_folder(settings.model, progress, settings.device)

    def open(self, folder: Path, settings: Settings) -> Model:
        """Return the model of that folder.

        Raises:
            ServingError: it cannot be run here.
        """
        from lsp_server.loading import open_chosen

        return open_chosen(folder, settings)

    def has_room(self, folder: Path | None) -> bool:
        """Tell whether a model fits beside what the memory holds; None: an export."""
        from lsp_server.loading import has_room

        return has_room(folder)
