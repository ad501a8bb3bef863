"""The server's log on standard error; it never holds a user's text."""

import logging

_OURS = ("lsp_server", "model_export")


class WithoutText(logging.Filter):
    """Strips what other libraries log down to where and what: messages hold users' files."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record through, without its message if it is not ours."""
        if not record.name.startswith(_OURS):
            error = record.exc_info[0] if record.exc_info else None
            kind = error.__name__ if error else record.levelname.lower()
            record.msg = f"{kind} at {record.module}:{record.lineno}"
            record.args, record.exc_info, record.exc_text = (), None, None
        return True


def log_to_stderr() -> None:
    """Log what the server does, and where other libraries complain."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    handler.addFilter(WithoutText())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("lsp_server").setLevel(logging.INFO)
