"""What the peer benchmark makes of its timings: medians, ratios, shares and limits; pure.

A ratio is the median over the rounds of the ratio within a round, because a machine's
speed drifts over minutes and all engines run in each round.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from statistics import median
from typing import Any

from model_export.architecture import Architecture

CONTEXTS = (100, 512, 1024, 1500, 1900)
PREFILL = "prefill 512"
BLOCK = "4 at once"
TYPED = "typed 1500"
OURS = "ours"
LLAMA = "llama.cpp"
AS_IS = "as-is"
"""The precision of the GGUF file that was given to llama.cpp, whatever it is."""

_OF_LLAMA = {"int8": ("q8_0",), "int4": (AS_IS, "q4_0")}
"""What of llama.cpp has as many bits as ours."""
_KV_BYTES = {"float32": 4, "float16": 2, "int8": 1}


def kv_label(kv_type: str) -> str:
    """Return a KV type as labels have it."""
    return f"kv{8 * _KV_BYTES[kv_type]}"


def decode(context: int) -> str:
    """Return the name of the measure: one token after a context of this length."""
    return f"decode {context}"


@dataclass(frozen=True)
class Engine:
    """An engine in one precision with one type of KV cache."""

    name: str
    precision: str
    kv_type: str
    bytes_per_weight: float
    """Of the matrices that each token reads, scales and zero points included."""
    has_flash_attention: bool = False
    """Where there is a choice."""

    @property
    def label(self) -> str:
        """How tables and plots call it; kv8 is a KV cache of eight bits a number."""
        label = f"{self.name} {self.precision} {kv_label(self.kv_type)}"
        return f"{label} fa" if self.has_flash_attention else label


@dataclass
class Result:
    """What one engine gave; seconds by measure, a list for each round."""

    engine: Engine
    load_s: float = 0.0
    resident_bytes: int = 0
    settings: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    best_tokens: list[int] = field(default_factory=list)
    seconds: dict[str, list[list[float]]] = field(default_factory=dict)
    cannot: dict[str, str] = field(default_factory=dict)
    """By measure, why there is none."""
    failure: str = ""
    """Why it did not run, or not to the end."""

    def median(self, measure: str) -> float | None:
        """Return the median second of all rounds."""
        values = [value for visit in self.seconds.get(measure, []) for value in visit]
        return median(values) if values else None


@dataclass(frozen=True)
class Limit:
    """Something to reach, and what this run gave; None where it gave nothing."""

    what: str
    bound: float
    found: float | None
    is_at_most: bool = True

    @property
    def is_reached(self) -> bool | None:
        """Whether it is; None where nobody can tell."""
        if self.found is None:
            return None
        return self.found <= self.bound if self.is_at_most else self.found >= self.bound


def matrices(architecture: Architecture) -> list[tuple[int, int]]:
    """Return rows and width of each matrix that a token reads; the head is the last."""
    d_model, d_ff = architecture.d_model, architecture.d_ff
    width = architecture.n_heads * architecture.head_dim
    qkv = width + 2 * architecture.n_kv_heads * architecture.head_dim
    if architecture.family == "llama":
        layer = [(qkv + 2 * d_ff, d_model), (d_model, width), (d_model, d_ff)]
    else:
        layer = [(qkv + d_ff, d_model), (d_model, width + d_ff)]
    return [*architecture.n_layers * layer, (architecture.vocab_size, d_model)]


def bytes_read(architecture: Architecture, engine: Engine, context: int, kv_type: str) -> int:
    """Return what one token must read: the products' weights once, and keys and values.

    Biases, norms and the token's own row of the embedding are less than a thousandth.
    """
    n_weights = sum(n_rows * width for n_rows, width in matrices(architecture))
    kv_width = architecture.n_kv_heads * architecture.head_dim
    cached = 2 * architecture.n_layers * kv_width * context * _KV_BYTES[kv_type]
    return round(n_weights * engine.bytes_per_weight) + cached


def ratio(ours: Result | None, theirs: Result | None, measure: str) -> float | None:
    """Return how much of their time ours is, the median of the rounds."""
    if ours is None or theirs is None:
        return None
    rounds = zip(ours.seconds.get(measure, []), theirs.seconds.get(measure, []), strict=False)
    ratios = [median(our) / median(their) for our, their in rounds if our and their]
    return median(ratios) if ratios else None


@dataclass(frozen=True)
class Rivals:
    """An engine in several setups, of which the fastest counts in each measure."""

    label: str
    results: list[Result]

    def fastest(self, measure: str) -> Result | None:
        """Return the one with the least median."""
        return _fastest(self.results, measure)


@dataclass(frozen=True)
class Report:
    """All results of one run on one machine."""

    machine: dict[str, Any]
    architecture: Architecture
    bandwidths: dict[str, list[float]]
    """Bytes per second that all cores together read, by measure, for each round."""
    results: list[Result]

    @property
    def bandwidth(self) -> float:
        """The median of them; neighbours on the same machine make it drift."""
        return median(value for values in self.bandwidths.values() for value in values)

    def find(self, name: str, precision: str, kv_type: str) -> Result | None:
        """Return the result of an engine, where it ran."""
        for result in self.results:
            engine = result.engine
            if (engine.name, engine.precision, engine.kv_type) == (name, precision, kv_type):
                return result if result.seconds else None
        return None

    def share(self, result: Result, context: int) -> float | None:
        """Return how near decoding comes to the memory's limit; 1 is the limit.

        The limit counts the smallest KV type that the engine ran with in that precision,
        so that a larger one is no excuse. It is taken within a round, like a ratio.
        """
        engine = result.engine
        smallest = min(self._kv_types(engine), key=_KV_BYTES.__getitem__, default="float32")
        least = bytes_read(self.architecture, engine, context, smallest)
        measure = decode(context)
        rounds = zip(
            self.bandwidths.get(measure, []), result.seconds.get(measure, []), strict=False
        )
        shares = [least / bandwidth / median(seconds) for bandwidth, seconds in rounds]
        return median(shares) if shares else None

    def _kv_types(self, engine: Engine) -> list[str]:
        return [
            result.engine.kv_type
            for result in self.results
            if result.seconds
            and (result.engine.name, result.engine.precision) == (engine.name, engine.precision)
        ]

    def peers(self) -> list[Result]:
        """Return those that are not ours and ran."""
        return [r for r in self.results if r.engine.name != OURS and r.seconds]

    def ours(self) -> list[Result]:
        """Return ours that ran."""
        return [r for r in self.results if r.engine.name == OURS and r.seconds]

    def pairs(self) -> list[tuple[Result, Result]]:
        """Return ours with each peer that is like it: of its precision and KV type.

        A peer that has no int8 KV cache is compared with both of ours. Of llama.cpp, which
        has many of both, ``rivals`` takes the best.
        """
        return [
            (ours, peer)
            for ours in self.ours()
            for peer in self.peers()
            if peer.engine.name != LLAMA
            and peer.engine.precision == ours.engine.precision
            and (
                peer.engine.kv_type == ours.engine.kv_type
                or "int8" not in self._kv_types(peer.engine)
            )
        ]

    def rivals(self, ours: Result) -> list[Rivals]:
        """Return what of llama.cpp to compare with: the given file, and as many bits as ours.

        Of each any cache and attention will do, as it is fastest.
        """
        precisions = _OF_LLAMA.get(ours.engine.precision)
        if precisions is None or not self._of_llama((AS_IS,)).results:
            return []
        return [self._of_llama((AS_IS,)), self._of_llama(precisions)]

    def _of_llama(self, precisions: Sequence[str]) -> Rivals:
        return Rivals(
            f"{LLAMA} {' or '.join(precisions)}, its best",
            [
                result
                for result in self.peers()
                if result.engine.name == LLAMA and result.engine.precision in precisions
            ],
        )

    def agreement(self, result: Result) -> float | None:
        """Return the share of prompts whose best token is that of ours in fp32."""
        ours = self.find(OURS, "fp32", "float32")
        if ours is None or not result.best_tokens:
            return None
        pairs = list(zip(ours.best_tokens, result.best_tokens, strict=True))
        return sum(our == their for our, their in pairs) / len(pairs)

    def limits(self) -> list[Limit]:
        """Return what has to be reached."""
        if self.architecture.family == "llama":
            return list(self._llama_limits())
        return [
            *self._decode_limits(),
            *self._growth_limits(),
            *self._share_limits(),
            *self._prefill_limits(),
            *self._typed_limits(),
        ]

    def _decode_limits(self) -> Iterable[Limit]:
        for precision, context, bound in (
            ("int8", 512, 0.72),
            ("int4", 512, 0.55),
            ("int8", 1900, 0.62),
        ):
            for kv_type in ("float32", "int8"):
                yield self._against(precision, "openvino", precision, kv_type, context, bound)
        for context, bound in ((512, 0.55), (1900, 0.35)):
            yield self._against("int8", "ctranslate2", "int8", "float32", context, bound)
        yield self._against("fp32", "transformers", "fp32", "float32", 512, 0.60)

    def _against(
        self, ours: str, peer: str, theirs: str, kv_type: str, context: int, bound: float
    ) -> Limit:
        found = ratio(
            self.find(OURS, ours, kv_type), self.find(peer, theirs, kv_type), decode(context)
        )
        what = f"decode at {context}: {ours} / {peer} {theirs}, both {kv_label(kv_type)}"
        return Limit(what, bound, found)

    def _llama_limits(self) -> Iterable[Limit]:
        given = self._of_llama((AS_IS,))
        for precision, bound in (("int4", 0.75), ("int8", 1.1)):
            for kv_type in ("float32", "int8"):
                found = ratio(
                    self.find(OURS, precision, kv_type),
                    given.fastest(decode(512)),
                    decode(512),
                )
                what = f"decode at 512: {precision} {kv_label(kv_type)} / {given.label}"
                yield Limit(what, bound, found)
        ours = _fastest((r for r in self.ours() if r.engine.precision != "fp32"), PREFILL)
        label = ours.engine.label if ours else "nothing"
        what = f"prefill of 512: {label} / {given.label}"
        yield Limit(what, 0.6, ratio(ours, given.fastest(PREFILL), PREFILL))

    def _growth_limits(self) -> Iterable[Limit]:
        for precision, bound in (("int8", 1.35), ("int4", 1.9)):
            result = self.find(OURS, precision, "int8")
            short = result.median(decode(100)) if result else None
            long = result.median(decode(1900)) if result else None
            found = long / short if long and short else None
            what = f"decode at 1900 / at 100: {precision} kv8"
            yield Limit(what, bound, found)

    def _share_limits(self) -> Iterable[Limit]:
        for (context, bound), precision in product(
            ((100, 0.8), (1900, 0.65)), ("int8", "int4")
        ):
            result = self._smallest_kv(precision)
            found = self.share(result, context) if result else None
            label = result.engine.label if result else f"{OURS} {precision}"
            what = f"share of the memory's limit at {context}: {label}"
            yield Limit(what, bound, found, is_at_most=False)

    def _smallest_kv(self, precision: str) -> Result | None:
        return self.find(OURS, precision, "int8") or self.find(OURS, precision, "float32")

    def _prefill_limits(self) -> Iterable[Limit]:
        ours = _fastest((r for r in self.ours() if r.engine.precision != "fp32"), PREFILL)
        for peer, bound in (("ctranslate2", 1.3), ("openvino", 0.8)):
            theirs = _fastest((r for r in self.peers() if r.engine.name == peer), PREFILL)
            labels = [r.engine.label if r else "nothing" for r in (ours, theirs)]
            what = f"prefill of 512: {labels[0]} / {labels[1]}, the fastest of each"
            yield Limit(what, bound, ratio(ours, theirs, PREFILL))

    def _typed_limits(self) -> Iterable[Limit]:
        for precision in ("int8", "int4"):
            result = self._smallest_kv(precision)
            typed = result.median(TYPED) if result else None
            step = result.median(decode(1500)) if result else None
            found = typed / step if typed and step else None
            label = result.engine.label if result else f"{OURS} {precision}"
            what = f"first token after a typed character / a decode step, at 1500: {label}"
            yield Limit(what, 2.0, found)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return {
            "machine": self.machine,
            "architecture": asdict(self.architecture),
            "bandwidths_bytes_per_s": self.bandwidths,
            "results": [self._result_json(result) for result in self.results],
            "limits": [
                {**asdict(limit), "is_reached": limit.is_reached} for limit in self.limits()
            ],
        }

    def _result_json(self, result: Result) -> dict[str, Any]:
        return {
            **asdict(result),
            "label": result.engine.label,
            "median_s": {measure: result.median(measure) for measure in result.seconds},
            "share_of_limit": {context: self.share(result, context) for context in CONTEXTS},
            "agreement_with_ours_fp32": self.agreement(result),
            "ours_to_this": {
                ours.engine.label: {
                    measure: ratio(ours, result, measure) for measure in ours.seconds
                }
                for ours in self.ours()
                if result.engine.name != OURS
            },
        }


def _fastest(results: Iterable[Result], measure: str) -> Result | None:
    timed: Sequence[tuple[float, Result]] = [
        (seconds, result)
        for result in results
        if (seconds := result.median(measure)) is not None
    ]
    return min(timed, key=lambda pair: pair[0])[1] if timed else None
