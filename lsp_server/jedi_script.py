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

from lsp_server.environment import package_paths
from lsp_server.jedi_results import correct_results

correct_results()
jedi.settings.cache_directory = user_cache_path("codegen-lsp") / "jedi"
# jedi would import these packages for real to look at them.
jedi.settings.auto_import_modules = []
# What a parameter may be is guessed from its calls, and a guess is not certain.
jedi.settings.dynamic_params = False
# What jedi finds once it has run a function 6 times, or 200 in all, lacks what it would find.
recursion.per_function_execution_limit = 100
recursion.total_function_execution_limit = 2000


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
