"""Writes the settings into package.json: the server's from its table, and the extension's own.

Run as `python -m editor_clients.vscode.contributed_settings` after a change of either.
"""

import json
from pathlib import Path
from typing import Any

from lsp_server.settings import settings_schema

MANIFEST = Path(__file__).with_name("package.json")

# Programs come from the person's own settings: no folder can name one, trusted or not.
_OWN: dict[str, dict[str, Any]] = {
    "server.path": {
        "type": "string",
        "default": "",
        "scope": "machine",
        "markdownDescription": "The `codegen-lsp` to start; empty: the one that the extension "
        "installed, else the one on the `PATH`.",
    },
    "server.python": {
        "type": "string",
        "default": "",
        "scope": "machine",
        "markdownDescription": "The Python, 3.11 or newer, that the server is installed with; "
        "empty: the first one on the `PATH`.",
    },
    "server.wheels": {
        "type": "string",
        "default": "",
        "scope": "machine",
        "markdownDescription": "A folder of wheels that the server is installed from, without "
        "a network; empty: from PyPI.",
    },
}
_RESTRICTED = ("model", "environment")
"""A folder names them once it is trusted: package.json restricts them too."""


def with_settings(manifest: str) -> str:
    """Return the text of package.json with the settings as they are now."""
    content = json.loads(manifest)
    contributed = dict(_OWN)
    for key, schema in settings_schema()["properties"].items():
        meaning = schema.pop("description")
        schema["markdownDescription"] = f"{meaning[0].upper()}{meaning[1:]}."
        if key in _RESTRICTED:
            schema["scope"] = "machine-overridable"
        contributed[key] = schema
    properties = {f"codegen.{key}": schema for key, schema in contributed.items()}
    content["contributes"]["configuration"]["properties"] = properties
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    text = MANIFEST.read_text(encoding="utf-8")
    MANIFEST.write_text(with_settings(text), encoding="utf-8")
