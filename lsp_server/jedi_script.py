"""Opens a buffer in jedi so that nothing of the project runs; pure jedi, no questions asked.

No interpreter is started and nothing is imported from the project: an environment's
packages are read as paths. Parsed modules are kept in a folder of ours, as pickles that
parso writes and reads; it must be no folder that anybody else writes to.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from traceback import walk_tb

import jedi
import parso.cache
from jedi.inference import recursion
from platformdirs import user_cache_path

from lsp_server.environment import find_environment
from lsp_server.jedi_results import correct_results

correct_results()
_VERSIONS = (3, 8), (3, 14)
"""The oldest and the newest that parso has a grammar for."""

jedi.settings.cache_directory = user_cache_path("codegen-lsp") / "jedi"
# jedi would import these packages for real to look at them.
jedi.settings.auto_import_modules = []
# What a parameter may be is guessed from its calls, and a guess is not certain.
jedi.settings.dynamic_params = False
# What jedi finds once it has run a function 6 times, or 200 in all, lacks what it would find.
recursion.per_function_execution_limit = 100
recursion.total_function_execution_limit = 2000


def open_script(
    text: str, path: str | None, project: str | None, named: str | None = None
) -> jedi.Script:
    """Return what answers questions about a buffer.

    Paths are of the file, its project, and the environment that is named for it.
    """
    folder = project or (Path(path).parent if path else None)
    environment = find_environment(
        Path(project) if project else None, Path(named) if named else None
    )
    return jedi.Script(
        text,
        path=path,
        project=jedi.Project(
            folder or Path("/nonexistent"),
            added_sys_path=environment.packages,
            load_unsafe_extensions=False,
        ),
        environment=_interpreter(environment.version),
    )


@cache
def _interpreter(
    version: tuple[int, int] | None,
) -> jedi.api.environment.InterpreterEnvironment:
    # The worker's own interpreter: a project's would run the project's .pth files.
    interpreter = jedi.InterpreterEnvironment()
    if version is not None:
        # What stubs say of this version holds, and its grammar.
        oldest, newest = _VERSIONS
        known = sorted((oldest, version, newest))[1]
        interpreter.version_info = type(interpreter.version_info)(*known, 0)
    return interpreter


@contextmanager
def tolerating() -> Iterator[None]:
    """Pass over what jedi raises on odd code, but not what a stored module is to blame for."""
    try:
        yield
    except Exception as error:
        if is_of_cache(error):
            raise


def is_of_cache(error: BaseException) -> bool:
    """Tell whether parso failed at its stored modules: one that was half written, say."""
    return any(
        frame.f_code.co_filename == parso.cache.__file__
        for frame, _ in walk_tb(error.__traceback__)
    )


def clear_cache() -> None:
    """Delete the stored modules, which are made again as they are needed."""
    shutil.rmtree(jedi.settings.cache_directory, ignore_errors=True)
