"""Checks a completion in its buffer, one kind of fault after the other.

It runs in a worker process, because jedi and parso hold the interpreter lock for long
and can fail on odd code in odd ways.
"""

import ast
import sys
import warnings
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

import jedi

from lsp_server.check_attributes import unknown_attributes
from lsp_server.check_buffer import CheckedBuffer, parse
from lsp_server.check_calls import wrong_arguments
from lsp_server.check_names import undefined_names, unresolved_imports
from lsp_server.environment import find_environment
from lsp_server.jedi_script import open_script
from lsp_server.repair import beginnings
from lsp_server.syntax import find_syntax_problem
from lsp_server.verdict import UNCHECKED, CheckRequest, Fault, Problem, Verdict, VerdictKind

_N_CUTS = 3
"""So many beginnings of a completion are tried."""


def check(request: CheckRequest) -> Verdict:
    """Return whether the buffer still parses and the new text uses what there is.

    Where it does not, the longest beginning that does may be kept. Positions of problems
    are UTF-16, in the buffer with the text inserted. Any input has a verdict; what cannot
    be judged is unchecked. May raise whatever jedi raises.
    """
    with warnings.catch_warnings():
        # jedi imports compiled modules of the standard library, and some warn.
        warnings.simplefilter("ignore")
        return _repaired(request, _checked(request))


def _repaired(request: CheckRequest, verdict: Verdict) -> Verdict:
    if verdict.verdict is not VerdictKind.FLAGGED:
        return verdict
    for n_kept in islice(beginnings(request, verdict.problems[0]), _N_CUTS):
        kept = replace(request, insert_text=request.insert_text[:n_kept])
        if _checked(kept).verdict is VerdictKind.OK:
            return Verdict(VerdictKind.REPAIRED, verdict.problems, n_kept)
    return verdict


def _checked(request: CheckRequest) -> Verdict:
    buffer = CheckedBuffer(request)
    tree = parse(buffer.text)
    if isinstance(tree, ast.Module):
        return _check_tree(tree, buffer, request)
    if tree is None:
        return UNCHECKED
    if _is_newer(request):
        # It may be right there.
        return UNCHECKED
    if Fault.SYNTAX not in request.off:
        problem = find_syntax_problem(
            request.text, request.offset, request.insert_text, longest=len(buffer.text)
        )
        if problem is not None:
            return Verdict(VerdictKind.FLAGGED, (problem,))
    # The code after the cursor is often still to be written, that before it is not.
    head = parse(buffer.text[: buffer.end] + "\n", may_go_on=True)
    if isinstance(head, ast.Module):
        buffer.may_define_later = True
        return _check_tree(head, buffer, request)
    return UNCHECKED


def _is_newer(request: CheckRequest) -> bool:
    """Tell whether the project's Python is newer than the one that parses here."""
    found = find_environment(
        Path(request.project) if request.project else None,
        Path(request.environment) if request.environment else None,
    )
    return found.version is not None and found.version > sys.version_info[:2]


def _check_tree(tree: ast.Module, buffer: CheckedBuffer, request: CheckRequest) -> Verdict:
    @cache
    def script() -> jedi.Script:
        return open_script(buffer.text, request.path, request.project, request.environment)

    problems: list[Problem] = []
    all_known = True
    if Fault.NAME not in request.off:
        found, names_known = undefined_names(tree, buffer, script)
        problems += found
        all_known &= names_known
    if Fault.IMPORT not in request.off:
        found, imports_known = unresolved_imports(tree, buffer, script)
        problems += found
        all_known &= imports_known
    if Fault.ATTRIBUTE not in request.off:
        problems += unknown_attributes(tree, buffer, script)
    if Fault.ARGUMENT not in request.off:
        problems += wrong_arguments(tree, buffer, script)
    if problems:
        problems.sort(key=lambda problem: (problem.line, problem.character))
        return Verdict(VerdictKind.FLAGGED, tuple(problems))
    return Verdict(VerdictKind.OK) if all_known else UNCHECKED
