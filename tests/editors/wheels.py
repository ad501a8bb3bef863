"""Wheels made from the packages that run the tests, for installs without a network."""

import sys
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.tags import sys_tags

_NOT_IN_A_WHEEL = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}
# Hundreds of megabytes that nothing here uses: no test of an editor runs on a GPU.
_LEFT_OUT = ("libonnxruntime_providers_cuda.so", "libonnxruntime_providers_tensorrt.so")


def make_wheels(name: str, folder: Path) -> None:
    """Put a wheel of each package that ``name`` needs into a folder, but none of itself."""
    waiting, done = _needs(distribution(name), set()), {name}
    while waiting:
        needed, extras = waiting.pop()
        package = distribution(needed)
        waiting += [need for need in _needs(package, extras) if need[0] not in done]
        if needed not in done:
            done.add(needed)
            _pack(package, folder)


def _needs(package: Distribution, extras: set[str]) -> list[tuple[str, set[str]]]:
    needs = []
    for line in package.requires or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": e}) for e in (extras or {""})):
            needs.append((requirement.name, requirement.extras))
    return needs


def _pack(package: Distribution, folder: Path) -> None:
    described = (package.read_text("WHEEL") or "").splitlines()
    tags = {line.removeprefix("Tag: ") for line in described if line.startswith("Tag: ")}
    tag = next(str(tag) for tag in sys_tags() if str(tag) in tags)
    name = package.name.replace("-", "_")
    with zipfile.ZipFile(folder / f"{name}-{package.version}-{tag}.whl", "w") as wheel:
        packed = []
        for file in package.files or ():
            # What lies outside site-packages is made by the installer.
            if ".." in file.parts or file.suffix == ".pyc" or file.name in _LEFT_OUT:
                continue
            if file.parent.suffix == ".dist-info" and file.name in _NOT_IN_A_WHEEL:
                continue
            packed.append(str(file))
            wheel.write(str(file.locate()), str(file))
        info = next(path for path in packed if path.endswith(".dist-info/WHEEL"))
        record = str(Path(info).with_name("RECORD"))
        lines = "".join(f"{path},,\n" for path in [*packed, record])
        wheel.writestr(record, lines)


if __name__ == "__main__":
    make_wheels(sys.argv[1], Path(sys.argv[2]))
