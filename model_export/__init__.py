"""From a CodeGen checkpoint to an exported folder; knows nothing of LSP or of serving.

Importing this package is cheap: the server needs only ``model_export.manifest``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model_export.exporting import export

__all__ = ["export"]


def __getattr__(name: str) -> Any:
    """Load ``export`` when it is first asked for, because it brings onnx with it."""
    if name == "export":
        from model_export.exporting import export

        return export
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
