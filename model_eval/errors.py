"""What can go wrong when measuring; a message says what, to what, and what to do next."""


class EvaluationError(Exception):
    """The base of all errors of this package."""


class PackageError(EvaluationError):
    """Packages to measure on cannot be had."""


class RunError(EvaluationError):
    """The record of a run cannot be gone on with."""


class ServerError(EvaluationError):
    """The language server cannot be asked."""


class ProjectError(EvaluationError):
    """A project cannot be measured on."""


class SandboxError(EvaluationError):
    """Generated programs cannot be run here."""


class ProblemsError(EvaluationError):
    """A benchmark's problems cannot be had."""
