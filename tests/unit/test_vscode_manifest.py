"""What the manifest of the VS Code extension promises."""

import json
import tomllib
from pathlib import Path
from typing import Any

from editor_clients.vscode.contributed_settings import MANIFEST, with_settings

ROOT = Path(__file__).parents[2]


def _manifest() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(MANIFEST.read_text(encoding="utf-8"))
    return content


def test_the_settings_are_those_of_the_server() -> None:
    """A setting that is added, changed or removed in the server is so in the editor."""
    text = MANIFEST.read_text(encoding="utf-8")
    assert with_settings(text) == text, (
        "run python -m editor_clients.vscode.contributed_settings"
    )


def test_the_version_is_that_of_the_server() -> None:
    """The wheel that the extension carries has its version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert _manifest()["version"] == project["project"]["version"]


def test_no_folder_names_a_program_nor_an_untrusted_one_a_model() -> None:
    """VS Code itself keeps such settings of a folder away from the extension."""
    manifest = _manifest()
    properties = manifest["contributes"]["configuration"]["properties"]
    naming = {key for key in properties if key.startswith("codegen.server.")}
    assert {properties[key]["scope"] for key in naming} == {"machine"}
    untrusted = manifest["capabilities"]["untrustedWorkspaces"]
    assert untrusted["supported"] == "limited"
    assert set(untrusted["restrictedConfigurations"]) == {
        *naming,
        "codegen.model",
        "codegen.environment",
    }


def test_every_command_of_a_menu_is_known() -> None:
    """No entry of the palette or the context menu leads nowhere."""
    contributes = _manifest()["contributes"]
    known = {command["command"] for command in contributes["commands"]}
    shown = {entry["command"] for entry in contributes["menus"]["codegen.editor"]}
    assert shown <= known


def test_packages_come_from_the_public_registry() -> None:
    """Who builds the extension asks no other host, and gets what was locked."""
    lock = json.loads(MANIFEST.with_name("package-lock.json").read_text(encoding="utf-8"))
    packages = [package for path, package in lock["packages"].items() if path]
    assert all(package.get("integrity") for package in packages)
    hosts = {package["resolved"].split("/")[2] for package in packages if "resolved" in package}
    assert hosts <= {"registry.npmjs.org"}
