"""The invariants of ARCHITECTURE.md that can be read off the imports."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module may import those of its own package that stand before it: data flows one way.
ORDER = {
    "model_export": [
        "errors", "catalogue", "architecture", "stored_tensor", "torch_bin",
        "codegen25_vocabulary", "tokenizer", "gguf_file", "checkpoint", "weights",
        "precision", "graph", "manifest", "pypi", "hub", "exporting", "__init__",
        "reference",
    ],
    "lsp_server": [
        "__init__", "errors", "verdict", "positions", "sampling", "vocabulary", "settings",
        "acceptance", "scheduler", "power", "environment", "documents", "python_lines",
        "language_lines", "overlap", "indentation", "truncation", "turns", "notebooks",
        "packing", "plan", "repair", "repetition", "known_names", "statement_shape",
        "steering", "prompt", "infill", "drafting", "serving_model", "writing", "completion",
        "perplexity", "confidence", "answers", "check_guards", "check_buffer", "syntax",
        "synthesis", "staleness", "tokenizer", "session", "engine", "terminal", "models",
        "kv_calibration", "loading", "local_models", "jedi_results", "jedi_script",
        "check_certainty", "member_names", "name_lookup", "check_names", "check_attributes",
        "check_calls", "check", "time_limit", "check_worker", "pending_checks", "doctor",
        "server_log", "message_input", "client_process", "model_host", "answering", "items",
        "protocol", "turn_actions", "turn_hints", "server", "model_commands", "limited_run",
        "commands", "__main__",
    ],
    "model_eval": [
        "__init__", "errors", "scores", "offsets", "dereferences", "judge", "packages",
        "checkpoints", "records", "opening", "generating", "guest", "sandbox", "executing",
        "humaneval", "mtpb", "mtpb_answers", "mtpb_report", "steering", "report", "plots",
        "commands", "bits", "holes", "hole_scores", "project", "editor", "hole_run",
        "prompt_perplexity", "precisions", "source_tables", "source_commands", "paper", "page",
        "page_sections", "page_command",
    ],
}  # fmt: skip

# A library is known to the modules named here and to no others.
ONLY = {
    "cattrs": {"lsp_server.check_worker", "lsp_server.kv_calibration", "model_export.manifest"},
    "gguf": {"model_export.gguf_file"},
    "huggingface_hub": {"model_export.hub"},
    "jedi": {
        "lsp_server.check",
        "lsp_server.check_attributes",
        "lsp_server.check_calls",
        "lsp_server.check_certainty",
        "lsp_server.check_names",
        "lsp_server.jedi_results",
        "lsp_server.jedi_script",
        "lsp_server.member_names",
        "lsp_server.name_lookup",
    },
    "lsprotocol": {
        "lsp_server.items",
        "lsp_server.protocol",
        "lsp_server.server",
        "lsp_server.turn_actions",
        "lsp_server.turn_hints",
        "model_eval.editor",
    },
    "ml_dtypes": {"model_export.checkpoint", "model_export.torch_bin"},
    "onnx": {"model_export.graph"},
    "onnxruntime": {"lsp_server.session", "model_export.reference"},
    "optimum": {"model_export.reference"},
    "parso": {
        "lsp_server.check_attributes",
        "lsp_server.check_certainty",
        "lsp_server.jedi_script",
        "lsp_server.member_names",
        "lsp_server.time_limit",
    },
    "matplotlib": {"model_eval.plots"},
    "platformdirs": {
        "lsp_server.acceptance",
        "lsp_server.jedi_script",
        "lsp_server.models",
        "model_eval.commands",
        "model_eval.packages",
    },
    "psutil": {
        "lsp_server.client_process",
        "lsp_server.doctor",
        "lsp_server.engine",
        "lsp_server.loading",
        "lsp_server.power",
        "model_export.exporting",
        "model_export.pypi",
    },
    "pyflakes": {
        "lsp_server.check_names",
        "model_eval.hole_scores",
        "model_eval.steering",
    },
    "pygments": {"lsp_server.language_lines"},
    "pygls": {
        "lsp_server.protocol",
        "lsp_server.server",
        "lsp_server.turn_actions",
        "lsp_server.turn_hints",
        "model_eval.editor",
    },
    "rich": {"lsp_server.terminal"},
    "safetensors": {"model_export.checkpoint"},
    "tokenizers": {
        "lsp_server.tokenizer",
        "model_export.exporting",
        "model_export.tokenizer",
    },
    "torch": {"model_export.reference"},
    "transformers": {"model_export.reference"},
}
ANYWHERE = {"numpy"}


def _modules() -> dict[str, set[str]]:
    """Return what each module imports, by full name, function bodies included."""
    found = {}
    for package in ORDER:
        for path in sorted((ROOT / package).glob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            imports = set()
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    imports |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    assert node.module, f"{path}: relative imports hide where things are"
                    imports |= {f"{node.module}.{alias.name}" for alias in node.names}
            found[f"{package}.{path.stem}"] = imports
    return found


MODULES = _modules()


@pytest.mark.parametrize("package", ORDER)
def test_data_flows_one_way(package: str) -> None:
    """A module imports only what stands before it in its package."""
    order = ORDER[package]
    assert {name.split(".")[1] for name in MODULES if name.startswith(package)} == set(order)
    for place, module in enumerate(order):
        later = {f"{package}.{name}" for name in order[place:]}
        for imported in MODULES[f"{package}.{module}"]:
            own = ".".join(imported.split(".")[:2])
            assert own not in later, f"{module} imports {imported}"


def test_export_knows_nothing_of_serving() -> None:
    """No module of model_export imports lsp_server."""
    for name, imports in MODULES.items():
        if name.startswith("model_export"):
            assert not any(imported.startswith("lsp_server") for imported in imports), name


def test_serving_knows_the_manifest_and_little_more_of_export() -> None:
    """The manifest, the errors, ``export`` and where models come from cross the border."""
    parts = ("manifest", "errors", "export", "catalogue", "hub", "pypi")
    allowed = tuple(f"model_export.{part}" for part in parts)
    for name, imports in MODULES.items():
        if name.startswith("lsp_server"):
            crossing = {i for i in imports if i.startswith("model_export")}
            assert all(i.startswith(allowed) for i in crossing), name


def test_neither_exporting_nor_serving_needs_the_evaluation() -> None:
    """The command line knows its errors; what is heavy comes when it is asked for."""
    for name, imports in MODULES.items():
        if not name.startswith("model_eval"):
            crossing = {i for i in imports if i.startswith("model_eval")}
            assert crossing <= {"model_eval.errors.EvaluationError"}, name


def test_one_module_of_serving_downloads() -> None:
    """Nothing is fetched unless a person asked for it by name, with ``pull``."""
    for name, imports in MODULES.items():
        if name.startswith("lsp_server") and name != "lsp_server.model_commands":
            assert not any(".download_" in imported for imported in imports), name


def test_each_library_has_its_module() -> None:
    """A library can be replaced by changing the modules that are named for it."""
    for name, imports in MODULES.items():
        for imported in imports:
            library = imported.split(".")[0]
            if library in sys.stdlib_module_names | ANYWHERE | ORDER.keys():
                continue
            assert name in ONLY.get(library, set()), f"{name} imports {library}"


def test_neither_exporting_nor_serving_loads_torch_or_optimum() -> None:
    """What runs on a user's machine needs none of the reference's libraries."""
    modules = [name for name in MODULES if name != "model_export.reference"]
    code = (
        f"import sys, {', '.join(name.removesuffix('.__init__') for name in modules)}\n"
        "found = {'torch', 'transformers', 'optimum'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {found}' if found else 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_starting_the_server_loads_no_model_library() -> None:
    """``initialize`` is answered before onnxruntime, tokenizers, onnx or jedi are loaded."""
    code = (
        "import sys, lsp_server.__main__, lsp_server.server\n"
        "heavy = {'onnxruntime', 'tokenizers', 'onnx', 'jedi', 'pygments', 'rich'}\n"
        "found = heavy & set(sys.modules)\n"
        "sys.exit(f'loaded: {found}' if found else 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_every_module_says_what_it_is_for() -> None:
    """The first thing a reader meets in a file is a docstring."""
    for package in ORDER:
        for path in (ROOT / package).glob("*.py"):
            assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_the_changelog_speaks_of_this_version() -> None:
    """A release cannot be made without saying what is in it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{project['project']['version']}]" in changelog


def test_every_module_and_test_that_the_documents_name_exists() -> None:
    """ARCHITECTURE.md and the other documents are true of the files as they are."""
    for document in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")):
        text = document.read_text(encoding="utf-8")
        for word in text.replace("`", " ").replace("(", " ").replace(")", " ").split():
            path, _, test = word.rstrip(".,;:").partition("::")
            if path.endswith(".py") and "/" in path:
                assert (ROOT / path).is_file(), f"{document.name} names {path}"
                functions = (ROOT / path).read_text(encoding="utf-8")
                assert not test or f"def {test}(" in functions, f"{document.name} names {word}"
