"""Opens a buffer in jedi so that nothing of the project runs; pure jedi, no questions asked.

No interpreter is started and nothing is imported from the project: an environment's
packages are read as paths.
"""

from functools import cache
from pathlib import Path

import jedi

from lsp_server.environment import package_paths

# jedi would import these packages for real to look at them.
jedi.settings.auto_import_modules = []
# What a parameter may be is guessed from its calls, and a guess is not certain.
jedi.settings.dynamic_params = False


def open_script(text: str, path: str | None, project: str | None) -> jedi.Script:
    """Return what answers questions about a buffer; paths are of the file and its project."""
    folder = project or (Path(path).parent if path else None)
    return jedi.Script(
        text,
        path=path,
        project=jedi.Project(
            folder or Path("/nonexistent"),
            added_sys_path=package_paths(Path(project)) if project else (),
            load_unsafe_extensions=False,
        ),
        environment=_environment(),
    )


@cache
def _environment() -> jedi.api.environment.InterpreterEnvironment:
    # The worker's own interpreter: a project's would run the project's .pth files.
    return jedi.InterpreterEnvironment()
