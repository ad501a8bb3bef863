"""Whether a KV cache may be int8: measured once, kept, and never in the way of a model."""

import errno
import json
import weakref
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from lsp_server import loading
from lsp_server.completion import complete
from lsp_server.engine import Engine
from lsp_server.errors import ModelLoadError
from lsp_server.kv_calibration import Calibration, calibrate
from lsp_server.plan import Snapshot
from lsp_server.serving_model import Model
from lsp_server.session import CacheScales
from lsp_server.settings import Settings
from lsp_server.tokenizer import Tokenizer
from model_export import export
from tests.checkpoints import EMBEDDED, codegen_config, write_checkpoint

EOS = 6105
N_LAYERS = 2
GOOD, BAD = 1.004, 1.006
"""How much less likely an int8 cache may make a text, and how much it may not."""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Return the embedded model's."""
    return Tokenizer.from_file(EMBEDDED / "tokenizer.json")


class FakeEngine:
    """Finds every token as likely as the next; an int8 cache makes some less so."""

    eos_token_id = EOS

    def __init__(self, engines: "FakeEngines", scales: CacheScales | None) -> None:
        self.context_length = engines.context_length
        self._engines = engines
        self._scales = scales

    def largest_cached(self, token_ids: Sequence[int]) -> CacheScales:
        """Return magnitudes that make scales of 1, 0.5 and what there is for 0."""
        self._engines.calibrated_on = list(token_ids)
        return CacheScales([127.0, 0.0], [63.5, 127.0])

    def log_probabilities(
        self, token_ids: Sequence[int], start: int
    ) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """Return -1 everywhere, times what an int8 cache costs there."""
        self._engines.measured_on = list(token_ids)
        values = np.full(len(token_ids) - start, -1.0, np.float64)
        if self._scales is not None:
            for first, last, factor in self._engines.costs:
                values[first:last] *= factor
        return values.astype(np.float32)


class FakeEngines:
    """Opens fakes, one at a time."""

    def __init__(self, *costs: tuple[int, int, float], context_length: int = 2048) -> None:
        self.costs = costs
        self.context_length = context_length
        self.opened: list[CacheScales | None] = []
        self.calibrated_on: list[int] = []
        self.measured_on: list[int] = []
        self._last: weakref.ref[FakeEngine] | None = None

    def __call__(self, scales: CacheScales | None) -> Engine:
        """Open one; the one before must be gone."""
        assert self._last is None or self._last() is None
        self.opened.append(scales)
        engine = FakeEngine(self, scales)
        self._last = weakref.ref(engine)
        return cast(Engine, engine)


def test_it_is_measured_once(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """The second start reads what the first found, and opens no further engine."""
    record = tmp_path / "deep" / "scales.json"
    engines = FakeEngines((0, 512, 1.002))
    first = calibrate(record, engines, tokenizer, N_LAYERS)
    assert engines.opened == [None, first.scales]
    assert first.rise_percent == {"0-512": 0.2, "512-1024": 0.0, "1024-2048": 0.0}
    assert calibrate(record, engines, tokenizer, N_LAYERS) == first
    assert len(engines.opened) == 2
    assert [file.name for file in record.parent.iterdir()] == [record.name]


def test_scales_of_zeros_are_one(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """A layer whose keys are all zero divides by nothing."""
    scales = calibrate(tmp_path / "scales.json", FakeEngines(), tokenizer, N_LAYERS).scales
    assert scales == CacheScales([1.0, 1.0], [0.5, 1.0])


DAMAGED = {
    "empty": b"",
    "cut": b'{"scales": {"keys": [0.1, 0.',
    "no object": b"[]",
    "null": b"null",
    "other keys": b'{"scale": {}}',
    "a key is missing": b'{"scales": {"keys": [1.0], "values": [1.0]}}',
    "other types": b'{"scales": {"keys": 1, "values": [1.0]}, "rise_percent": {}}',
    "no text": b"\xff\xfe\x00",
    "nested": b"[" * 100_000,
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_record_is_made_anew(
    content: bytes, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """Whatever stands in its place, the model loads, and the next start finds it whole."""
    record = tmp_path / "scales.json"
    record.write_bytes(content)
    engines = FakeEngines()
    found = calibrate(record, engines, tokenizer, N_LAYERS)
    assert json.loads(record.read_text()) == asdict(found)
    assert calibrate(record, engines, tokenizer, N_LAYERS) == found
    assert len(engines.opened) == 2


@pytest.mark.parametrize("place", ["a folder", "below a file"])
def test_a_record_that_cannot_be_written_is_no_failure(
    place: str, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """It is measured at each start then."""
    record = tmp_path / "cache" / "scales.json"
    if place == "a folder":
        record.mkdir(parents=True)
    else:
        record.parent.write_text("")
    engines = FakeEngines()
    for _ in range(2):
        assert calibrate(record, engines, tokenizer, N_LAYERS).is_good
    assert len(engines.opened) == 4


def test_a_file_system_that_cannot_be_written_is_no_failure(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux refuses to remove even what is not there, where nothing can be written."""

    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("write_text", "unlink", "replace"):
        monkeypatch.setattr(Path, name, refuse)
    assert calibrate(tmp_path / "scales.json", FakeEngines(), tokenizer, N_LAYERS).is_good


@pytest.mark.parametrize(
    ("costs", "is_good"),
    [
        ([], True),
        ([(0, 2048, GOOD)], True),
        ([(0, 2048, BAD)], False),
        ([(0, 512, BAD)], False),
        ([(512, 1024, BAD)], False),
        ([(1024, 2048, BAD)], False),
        ([(0, 2048, 0.9)], True),
        ([(0, 1, float("nan"))], False),
        ([(0, 1, float("inf"))], False),
    ],
    ids=str,
)
def test_a_cache_that_suffers_is_not_good(
    costs: list[tuple[int, int, float]], is_good: bool, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """It may cost half a percent at most, early in the context and late; kept or not."""
    record = tmp_path / "scales.json"
    assert calibrate(record, FakeEngines(*costs), tokenizer, N_LAYERS).is_good is is_good
    assert calibrate(record, FakeEngines(), tokenizer, N_LAYERS).is_good is is_good


def test_scales_are_chosen_on_other_text_than_they_are_judged_by(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """Else the measurement would flatter; both texts begin as a file does."""
    engines = FakeEngines()
    calibrate(tmp_path / "scales.json", engines, tokenizer, N_LAYERS)
    sources = {
        package: "".join(
            file.read_text("utf-8")
            for file in sorted(files(package).iterdir(), key=lambda file: file.name)
            if file.name.endswith(".py")
        )
        for package in ("lsp_server", "model_export")
    }
    assert engines.calibrated_on[0] == engines.measured_on[0] == EOS
    assert (len(engines.calibrated_on), len(engines.measured_on)) == (512, 2048)
    calibrated, measured = (
        tokenizer.decode(token_ids[1:-1])
        for token_ids in (engines.calibrated_on, engines.measured_on)
    )
    assert calibrated in sources["lsp_server"]
    assert measured in sources["model_export"]
    assert measured not in sources["lsp_server"]


@pytest.mark.parametrize("context_length", [65, 100, 600])
def test_a_short_context_is_measured_as_far_as_it_goes(
    context_length: int, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """No more tokens than fit are run."""
    engines = FakeEngines((0, 64, BAD + 1), context_length=context_length)
    assert not calibrate(tmp_path / "scales.json", engines, tokenizer, N_LAYERS).is_good
    assert len(engines.measured_on) == context_length


def test_what_was_not_measured_is_not_good(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """A context that is too short to tell gives no int8 cache to who did not ask for it."""
    engines = FakeEngines((0, 64, 2.0), context_length=64)
    calibration = calibrate(tmp_path / "scales.json", engines, tokenizer, N_LAYERS)
    assert calibration.rise_percent == {}
    assert not calibration.is_good


def test_a_model_that_cannot_be_opened_leaves_no_record(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """The error is the engine's own, and the next start tries again."""

    def fail(_scales: CacheScales | None) -> Engine:
        raise ModelLoadError("it is broken")

    with pytest.raises(ModelLoadError, match="it is broken"):
        calibrate(tmp_path / "scales.json", fail, tokenizer, N_LAYERS)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the embedded model for the CPU, and a small one for CUDA."""
    path = tmp_path_factory.mktemp("folders")
    for precision in ("int8", "int4", "fp32"):
        export(EMBEDDED, path / precision, precision=precision)
    checkpoint = write_checkpoint(path / "checkpoint", codegen_config(n_positions=256))
    export(checkpoint, path / "cuda", precision="int8", device="cuda")
    return {name: path / name for name in ("int8", "int4", "fp32", "cuda")}


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where the calibration is kept, in place of the user's cache."""
    record = tmp_path / "scales.json"
    monkeypatch.setattr("lsp_server.loading.scales_record", lambda _files: record)
    return record


def cache_of(model: Model) -> str:
    """Return the type of a model's KV cache."""
    assert isinstance(model.engine, Engine)
    return np.dtype(model.engine._session._cache_type).name


def opened(folder: Path, kv_cache: Any, **settings: Any) -> Model:
    """Open a model as the server does."""
    return loading.open_model(folder, Settings(kv_cache=kv_cache, **settings))


def test_the_embedded_model_is_measured_when_it_is_first_opened(
    folders: dict[str, Path], record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real model, on real text: its scales fit it, and are there the second time."""
    model = opened(folders["int8"], "auto")
    kept = json.loads(record.read_text())
    assert set(kept["rise_percent"]) == {"0-512", "512-1024", "1024-2048"}
    assert max(map(abs, kept["rise_percent"].values())) < 5
    assert len(kept["scales"]["keys"]) == len(kept["scales"]["values"]) == 4
    is_good = max(kept["rise_percent"].values()) <= 0.5
    assert cache_of(model) == ("int8" if is_good else "float32")
    monkeypatch.setattr(
        "lsp_server.kv_calibration._measured", lambda *_: pytest.fail("it measured again")
    )
    assert cache_of(opened(folders["int8"], "auto")) == cache_of(model)
    assert cache_of(opened(folders["int8"], "int8")) == "int8"


def _calibration(rise_percent: float) -> str:
    scales = CacheScales([0.1] * 4, [0.1] * 4)
    return json.dumps(asdict(Calibration(scales, {"0-512": rise_percent})))


@pytest.mark.parametrize(
    ("precision", "kv_cache", "rise_percent", "expected"),
    [
        ("int8", "auto", 0.1, "int8"),
        ("int4", "auto", 0.1, "int8"),
        ("int8", "auto", 0.9, "float32"),
        ("int8", "int8", 0.9, "int8"),
        ("int8", "float", 0.1, "float32"),
        ("fp32", "auto", 0.1, "float32"),
        ("fp32", "int8", 0.9, "int8"),
    ],
)
def test_who_gets_an_int8_cache(
    precision: str,
    kv_cache: str,
    rise_percent: float,
    expected: str,
    folders: dict[str, Path],
    record: Path,
) -> None:
    """With auto only a model of integer weights that bears it; who asks for it, in any case."""
    record.write_text(_calibration(rise_percent))
    assert cache_of(opened(folders[precision], kv_cache)) == expected


@pytest.mark.parametrize("kv_cache", ["auto", "float"])
def test_exact_weights_are_not_measured(
    kv_cache: str, folders: dict[str, Path], record: Path
) -> None:
    """Whoever keeps the weights as floats waits for no calibration."""
    opened(folders["fp32"], kv_cache)
    assert not record.exists()


def test_a_record_of_another_model_is_made_anew(folders: dict[str, Path], record: Path) -> None:
    """Scales that are too few for the layers do not keep the model from loading."""
    scales = CacheScales([0.1], [0.1])
    record.write_text(json.dumps(asdict(Calibration(scales, {"0-512": 0.0}))))
    assert opened(folders["int8"], "int8").engine.context_length == 2048


def test_a_folder_without_an_int8_graph_is_not_called_damaged(
    folders: dict[str, Path], record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders for CUDA have none, so whoever asks for int8 there gets floats or the reason."""
    monkeypatch.setattr("lsp_server.engine.why_no_cuda", lambda: "no driver")
    assert cache_of(opened(folders["cuda"], "auto")) == "float16"
    assert not record.exists()
    try:
        said = opened(folders["cuda"], "int8").notice
    except ModelLoadError as error:
        said = str(error)
    assert "int8" in said
    assert "damaged" not in said


def test_a_bound_of_the_cache_bounds_no_measurement(
    folders: dict[str, Path], record: Path
) -> None:
    """Who raises the bound later gets a cache that is good all along."""
    assert opened(folders["int8"], "auto", cache_megabytes=1).engine.context_length < 512
    assert list(json.loads(record.read_text())["rise_percent"])[-1] == "1024-2048"


def test_one_megabyte_still_completes(folders: dict[str, Path], record: Path) -> None:
    """The smallest bound that may be set gives a shorter context, and answers."""
    record.write_text(_calibration(0.1))
    for kv_cache in ("int8", "float"):
        model = opened(folders["int8"], kv_cache, cache_megabytes=1)
        assert 64 <= model.engine.context_length < 2048
        text = "import os\n\n\ndef size_of(path):\n    return "
        completion = complete(model, Snapshot(text, len(text)), max_new_tokens=256)
        assert completion.generated_tokens
