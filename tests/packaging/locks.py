"""Lock files as the tests read them: without the code that writes them."""

import re
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
MAIN_LOCK = ROOT / "requirements.lock"
IMAGES = ("serving", "control", "tracking", "worker", "ingest")
_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})$")


@dataclass(frozen=True)
class Pin:
    """One requirement of a lock and the hashes of its files."""

    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        (specifier,) = self.requirement.specifier
        if specifier.operator != "==":
            raise ValueError(f"{self.requirement} is not pinned")
        return specifier.version


def image_lock(image: str) -> Path:
    return ROOT / "deploy" / f"requirements-{image}.lock"


def read_lock(path: Path) -> list[Pin]:
    """Every pin of a lock, in its order."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    pins = []
    for line in text.splitlines():
        requirement, *options = re.split(r"\s+(?=--)", line.strip())
        hashes = [match.group(1) for option in options if (match := _HASH.match(option))]
        if len(hashes) != len(options):
            raise ValueError(f"{path.name} holds more than hashes: {line[:200]}")
        pins.append(Pin(Requirement(requirement), tuple(hashes)))
    return pins


def read_versions(path: Path) -> dict[str, str]:
    """The version of each package in a lock, whatever system it is for."""
    return {pin.name: pin.version for pin in read_lock(path)}
