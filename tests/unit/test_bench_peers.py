"""What the peer benchmark makes of its timings; no engine runs here."""

import json
import sys
import venv
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import environments
from benchmarks.engines import subjects
from benchmarks.environments import Environment, EnvironmentFailedError
from benchmarks.report import (
    AS_IS,
    CONTEXTS,
    LLAMA,
    OURS,
    PREFILL,
    TYPED,
    Engine,
    Limit,
    Report,
    Result,
    bytes_read,
    decode,
    ratio,
)
from model_export.architecture import Architecture

ARCHITECTURE = Architecture(
    family="codegen",
    n_layers=2,
    n_heads=2,
    n_kv_heads=2,
    head_dim=16,
    d_model=32,
    d_ff=128,
    rotary_dim=16,
    rotary_base=10000.0,
    rotary_as_pairs=True,
    vocab_size=100,
    context_length=2048,
    norm_epsilon=1e-5,
    has_tied_head=False,
    mp_num=2,
)
N_WEIGHTS = 2 * 12 * 32 * 32 + 100 * 32
LLAMA_ARCHITECTURE = replace(
    ARCHITECTURE, family="llama", n_kv_heads=1, d_ff=48, has_tied_head=True, mp_num=1
)


def result(
    name: str, precision: str, kv_type: str = "float32", **seconds: list[list[float]]
) -> Result:
    """Return a result; ``decode_512`` stands for "decode 512"."""
    measured = {measure.replace("_", " "): visits for measure, visits in seconds.items()}
    return Result(Engine(name, precision, kv_type, 1.0), seconds=measured)


def report(*results: Result, architecture: Architecture = ARCHITECTURE) -> Report:
    """Return a report of one machine, whose memory is read at 1 MB a second."""
    bandwidths = {decode(context): [1e6] for context in CONTEXTS}
    return Report({"cpu": "a cpu"}, architecture, bandwidths, list(results))


def limit(found: Report, what: str) -> Limit:
    """Return the one limit that begins so."""
    (only,) = (limit for limit in found.limits() if limit.what.startswith(what))
    return only


def test_a_token_reads_each_weight_once_and_the_whole_cache() -> None:
    """The limit counts what must be read: products, head, keys and values."""
    int4 = Engine(OURS, "int4", "int8", 0.5)
    assert bytes_read(ARCHITECTURE, int4, 0, "int8") == N_WEIGHTS // 2
    keys_and_values = 2 * 2 * 32 * 10
    assert bytes_read(ARCHITECTURE, int4, 10, "int8") == N_WEIGHTS // 2 + keys_and_values
    assert bytes_read(ARCHITECTURE, int4, 10, "float32") == N_WEIGHTS // 2 + 4 * keys_and_values


def test_of_llama_a_token_reads_three_matrices_of_its_mlp_and_fewer_keys() -> None:
    """Groups of queries share keys and values, and the gate is a matrix of its own."""
    n_weights = 2 * (32 * 32 + 2 * 16 * 32 + 32 * 32 + 3 * 48 * 32) + 100 * 32
    floats = Engine(OURS, "fp32", "float32", 4)
    assert bytes_read(LLAMA_ARCHITECTURE, floats, 0, "float32") == 4 * n_weights
    keys_and_values = 4 * 2 * 2 * 16 * 10
    found = bytes_read(LLAMA_ARCHITECTURE, floats, 10, "float32")
    assert found == 4 * n_weights + keys_and_values


def our_bytes(architecture: Architecture) -> dict[str, float]:
    """Return the bytes of ours for a weight, by precision."""
    ours = [s.engine for s in subjects(architecture, has_gguf=False) if s.engine.name == OURS]
    return {engine.precision: engine.bytes_per_weight for engine in ours}


def test_bytes_of_ours_count_scales_of_blocks_that_fit_a_row() -> None:
    """A row of 32 has one scale of four bytes, where one of 1,024 has eight."""
    assert our_bytes(ARCHITECTURE) == {"fp32": 4, "int8": 36 / 32, "int4": 20 / 32}
    # A tied head is stored as the embedding is, of which int4 keeps eight bits.
    tied = replace(ARCHITECTURE, has_tied_head=True)
    n_head = 100 * 32
    n_bytes = (N_WEIGHTS - n_head) * 20 / 32 + n_head * 36 / 32
    assert our_bytes(tied)["int4"] == pytest.approx(n_bytes / N_WEIGHTS)


def test_llama_cpp_runs_with_a_gguf_file_only() -> None:
    """Nothing is compiled for a checkpoint that it cannot read."""
    for has_gguf in (False, True):
        chosen = subjects(LLAMA_ARCHITECTURE, has_gguf=has_gguf)
        assert any(subject.engine.name == LLAMA for subject in chosen) is has_gguf


def test_ours_is_compared_with_the_best_of_llama_cpp_in_each_measure() -> None:
    """What is fastest differs with the context, the file and the cache."""
    given = result(LLAMA, AS_IS, "float16", decode_512=[[8.0]], prefill_512=[[4.0]])
    flash = result(LLAMA, AS_IS, "int8", decode_512=[[10.0]], prefill_512=[[2.0]])
    other = result(LLAMA, "q4_0", "float16", decode_512=[[5.0]], prefill_512=[[3.0]])
    ours = result(OURS, "int4", "int8", decode_512=[[4.0]], prefill_512=[[1.0]])
    found = report(ours, given, flash, other, architecture=LLAMA_ARCHITECTURE)
    fastest = {
        rivals.label: [rivals.fastest(measure) for measure in (decode(512), PREFILL)]
        for rivals in found.rivals(ours)
    }
    assert fastest == {
        "llama.cpp as-is, its best": [given, flash],
        "llama.cpp as-is or q4_0, its best": [other, flash],
    }
    assert found.pairs() == []


def test_limits_of_llama_are_against_llama_cpp_on_the_given_file() -> None:
    """They are of the very same file; what is faster in another shows in the ratios."""
    found = report(
        result(OURS, "int4", "int8", decode_512=[[4.0]], prefill_512=[[1.0]]),
        result(OURS, "int8", "int8", decode_512=[[9.0]], prefill_512=[[3.0]]),
        result(LLAMA, AS_IS, "float16", decode_512=[[8.0]], prefill_512=[[2.0]]),
        result(LLAMA, "q4_0", "float16", decode_512=[[5.0]], prefill_512=[[1.0]]),
        architecture=LLAMA_ARCHITECTURE,
    )
    assert limit(found, "decode at 512: int4 kv8 / llama.cpp as-is").found == 0.5
    assert limit(found, "decode at 512: int8 kv8 / llama.cpp as-is").is_reached is False
    assert limit(found, "decode at 512: int8 kv32 / llama.cpp as-is").is_reached is None
    assert limit(found, "prefill of 512: ours int4 kv8 / llama.cpp as-is").found == 0.5


def test_the_median_is_of_all_rounds() -> None:
    """One slow visit does not move it."""
    ours = result(OURS, "int8", decode_512=[[1.0, 2.0], [3.0, 90.0], [2.0]])
    assert ours.median(decode(512)) == 2.0
    assert ours.median(PREFILL) is None


def test_a_ratio_is_taken_within_rounds() -> None:
    """A machine that halves its speed halfway through changes no ratio."""
    ours = result(OURS, "int8", decode_512=[[1.0], [2.0], [2.0]])
    peer = result("openvino", "int8", decode_512=[[2.0], [4.0], [4.0]])
    assert ratio(ours, peer, decode(512)) == 0.5


def test_what_did_not_run_has_no_ratio() -> None:
    """A peer that is missing is neither slower nor faster."""
    ours = result(OURS, "int8", decode_512=[[1.0]])
    assert ratio(ours, None, decode(512)) is None
    assert ratio(ours, result("openvino", "int8"), decode(512)) is None
    assert limit(report(ours), "decode at 512: int8 / ctranslate2").is_reached is None


def test_the_share_counts_the_smallest_cache_that_the_engine_has() -> None:
    """A float cache is no excuse where an int8 one is offered."""
    least = bytes_read(ARCHITECTURE, Engine(OURS, "int8", "int8", 1.0), 100, "int8") / 1e6
    floats = result(OURS, "int8", decode_100=[[2 * least]])
    small = result(OURS, "int8", "int8", decode_100=[[least]])
    both = report(floats, small)
    assert both.share(floats, 100) == pytest.approx(0.5)
    assert both.share(small, 100) == pytest.approx(1.0)
    share_alone = report(floats).share(floats, 100)
    assert share_alone is not None
    assert share_alone > 0.5
    assert both.share(floats, 512) is None


def test_a_share_is_taken_within_rounds() -> None:
    """Where the memory slows down, so do the limit and the engine."""
    least = bytes_read(ARCHITECTURE, Engine(OURS, "int8", "int8", 1.0), 100, "int8")
    ours = result(OURS, "int8", "int8", decode_100=[[least / 1e6], [least / 5e5]])
    bandwidths = {decode(100): [1e6, 5e5]}
    found = Report({"cpu": "a cpu"}, ARCHITECTURE, bandwidths, [ours])
    assert found.share(ours, 100) == pytest.approx(1.0)
    assert found.bandwidth == 7.5e5


def test_limits_compare_caches_of_one_type() -> None:
    """An int8 cache is not measured against a peer's float one."""
    found = report(
        result(OURS, "int8", "float32", decode_512=[[6.0]]),
        result(OURS, "int8", "int8", decode_512=[[4.0]]),
        result("openvino", "int8", "float32", decode_512=[[10.0]]),
        result("openvino", "int8", "int8", decode_512=[[5.0]]),
    )
    what = "decode at 512: int8 / openvino int8, both"
    assert limit(found, f"{what} kv32").found == 0.6
    assert limit(found, f"{what} kv32").is_reached is True
    assert limit(found, f"{what} kv8").found == 0.8
    assert limit(found, f"{what} kv8").is_reached is False


def test_what_has_no_int8_cache_is_compared_with_both_of_ours() -> None:
    """The ratios' table is like for like, as far as a peer has the like."""
    visits = [[1.0]]
    found = report(
        result(OURS, "int8", "float32", decode_512=visits),
        result(OURS, "int8", "int8", decode_512=visits),
        result("openvino", "int8", "float32", decode_512=visits),
        result("openvino", "int8", "int8", decode_512=visits),
        result("openvino", "int4", "int8", decode_512=visits),
        result("ctranslate2", "int8", decode_512=visits),
    )
    assert [(ours.engine.label, peer.engine.label) for ours, peer in found.pairs()] == [
        ("ours int8 kv32", "openvino int8 kv32"),
        ("ours int8 kv32", "ctranslate2 int8 kv32"),
        ("ours int8 kv8", "openvino int8 kv8"),
        ("ours int8 kv8", "ctranslate2 int8 kv32"),
    ]


def test_prefill_compares_the_fastest_of_each() -> None:
    """Which precision prefills fastest differs between processors."""
    found = report(
        result(OURS, "int8", prefill_512=[[3.0]]),
        result(OURS, "int4", prefill_512=[[2.0]]),
        result("openvino", "int8", prefill_512=[[4.0]]),
        result("openvino", "int4", prefill_512=[[5.0]]),
    )
    assert limit(found, "prefill of 512: ours int4 kv32 / openvino int8").found == 0.5


def test_a_share_must_be_at_least_its_limit() -> None:
    """Of a share more is better, of a ratio less."""
    assert Limit("share", 0.8, 0.9, is_at_most=False).is_reached is True
    assert Limit("share", 0.8, 0.7, is_at_most=False).is_reached is False
    assert Limit("ratio", 0.8, 0.7).is_reached is True


def test_a_typed_character_is_compared_with_a_step_at_its_own_context() -> None:
    """The limit of the first token is in decode steps at 1,500 tokens."""
    ours = result(OURS, "int4", "int8", typed_1500=[[3.0]], decode_1500=[[2.0]])
    what = "first token after a typed character / a decode step, at 1500: ours int4 kv8"
    assert limit(report(ours), what).found == 1.5
    assert ours.median(TYPED) == 3.0


def test_best_tokens_are_compared_with_ours_in_fp32() -> None:
    """A peer that computes something easier would choose other tokens."""
    ours = result(OURS, "fp32", decode_512=[[1.0]])
    peer = result("openvino", "int8", decode_512=[[1.0]])
    ours.best_tokens, peer.best_tokens = [1, 2, 3, 4], [1, 2, 3, 9]
    assert report(ours, peer).agreement(peer) == 0.75
    assert report(peer).agreement(peer) is None


def test_the_report_is_one_json_object() -> None:
    """Figures can be read by other programs, what is missing as null."""
    failed = result("openvino", "int4")
    failed.failure = "no wheel"
    ours = result(OURS, "int8", decode_512=[[1.0]])
    peer = result("openvino", "int8", decode_512=[[2.0]])
    written = json.loads(json.dumps(report(ours, peer, failed).to_json()))
    labels = {entry["label"]: entry for entry in written["results"]}
    against = labels["openvino int8 kv32"]["ours_to_this"]
    assert against["ours int8 kv32"] == {"decode 512": 0.5}
    assert labels["openvino int4 kv32"]["failure"] == "no wheel"
    assert {entry["is_reached"] for entry in written["limits"]} == {True, None}


def test_an_environment_of_other_requirements_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new version of a peer is installed, not the old one measured."""
    monkeypatch.setattr(environments, "cache_folder", lambda: tmp_path)
    old, new = Environment("peer", ("peer==1",)), Environment("peer", ("peer==2",))
    assert not old.is_made()
    old.folder.mkdir(parents=True)
    (old.folder / "requested.txt").write_text(f"{sys.version}\npeer==1")
    assert old.is_made()
    assert not new.is_made()
    assert not replace(old, cmake_arguments="-DFAST=ON").is_made()


def test_what_cannot_be_installed_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that is not to be had costs its own figures and no others."""
    monkeypatch.setattr(environments, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(venv, "create", lambda *_, **__: None)
    peer = Environment("peer", ("./missing-1-py3-none-any.whl",))
    monkeypatch.setattr(Environment, "python", Path(sys.executable))
    with pytest.raises(EnvironmentFailedError, match="missing"):
        peer.make()
    assert not peer.is_made()
