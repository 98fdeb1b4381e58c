"""What a training was made with: code, packages, seed, parameters and snapshot; enough to make it again."""

import hashlib
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import training

PROJECT_FOLDER = Path(training.__file__).parent.parent
_DECIDING_FOLDERS = ("core", "training", "workloads")
_PACKAGES = ("keras", "tensorflow", "tensorflow-cpu", "numpy", "scikit-learn", "pyarrow")
_GIT_TIMEOUT_S = 10


@dataclass(frozen=True)
class Provenance:
    """`code_version` is the commit, with `+changed` where files differ from it, for people; `code_digest` is that of
    the sources that decide a training. `continues` is the version whose weights were trained on."""

    snapshot_digest: str
    parameters: Mapping[str, int | float]
    variant: str
    continues: int | None
    code_version: str
    code_digest: str
    python: str
    packages: Mapping[str, str]

    def to_document(self) -> dict[str, object]:
        """As it stands in a version's `evaluation.json`."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, object]) -> "Provenance | None":
        """From a version's `evaluation.json`; None where it has none."""
        found = document.get("provenance")
        return cls(**found) if isinstance(found, dict) else None

    def compare(self, other: "Provenance") -> list[str]:
        """In words, what of code and packages is another in `other`."""
        found = []
        if self.code_digest != other.code_digest:
            found.append(f"the code is another: it was {self.code_version}, now it is {other.code_version}")
        if self.python != other.python:
            found.append(f"Python was {self.python} and is {other.python}")
        for name in sorted({*self.packages, *other.packages}):
            was, now = self.packages.get(name, "not installed"), other.packages.get(name, "not installed")
            if was != now:
                found.append(f"{name} was {was} and is {now}")
        return found


def describe_provenance(
    snapshot_digest: str, parameters: Mapping[str, int | float], variant: str, continues: int | None
) -> Provenance:
    """The provenance of a training that this process makes now."""
    return Provenance(
        snapshot_digest=snapshot_digest,
        parameters=dict(parameters),
        variant=variant,
        continues=continues,
        code_version=find_code_version(),
        code_digest=compute_code_digest(),
        python=platform.python_version(),
        packages=_list_packages(),
    )


def find_code_version(folder: Path = PROJECT_FOLDER) -> str:
    """The commit of the checkout, with `+changed` where its files differ; `unknown` outside of one."""
    try:
        commit = _ask_git(folder, "rev-parse", "HEAD")
        is_changed = bool(_ask_git(folder, "status", "--porcelain", "--", *_DECIDING_FOLDERS))
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{commit[:12]}+changed" if is_changed else commit[:12]


def compute_code_digest(folder: Path = PROJECT_FOLDER) -> str:
    """SHA-256 over path and content of every Python file that decides a training."""
    total = hashlib.sha256()
    for name in _DECIDING_FOLDERS:
        for path in sorted((folder / name).rglob("*.py")):
            total.update(f"{path.relative_to(folder).as_posix()}\n".encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _ask_git(folder: Path, *arguments: str) -> str:
    answer = subprocess.run(
        ["git", "-C", str(folder), *arguments],  # git is where the path says
        capture_output=True,
        check=True,
        text=True,
        timeout=_GIT_TIMEOUT_S,
    )
    return answer.stdout.strip()


def _list_packages() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
