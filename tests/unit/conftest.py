"""A host of models that belongs to one test."""

from collections.abc import Iterator

import pytest

from lsp_server.model_host import ModelHost
from tests.hosting import DEADLINE_S, Source


@pytest.fixture
def _plugged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsp_server.model_host.is_on_battery", lambda: False)


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsp_server.model_host._PATIENCE_S", 10 * DEADLINE_S)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, _patient: None) -> None:
    """Let every load be one that takes long."""
    monkeypatch.setattr("lsp_server.model_host._PATIENCE_S", 0.0)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a minute be very short."""
    monkeypatch.setattr("lsp_server.model_host._MINUTE_S", 0.001)


@pytest.fixture
def source() -> Source:
    """Return a source that waits for nothing yet."""
    return Source()


@pytest.fixture
def host(source: Source, _plugged_in: None, _patient: None) -> Iterator[ModelHost]:
    """Yield a host that is closed in the end."""
    host = ModelHost(source)
    yield host
    host.close()
    host.wait(DEADLINE_S)
