"""Write the lock files and conda.yaml from pyproject.toml; `make lock` runs it.

`requirements.lock` holds all that a checkout needs to be run, tested and checked. The locks in this folder hold what
one image each needs; they are resolved under the versions of the first, so all processes run the same versions.
Every lock has one version of a package for all supported Pythons and systems, its hashes, and no address.
"""

import argparse
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
MAIN_LOCK = ROOT / "requirements.lock"
CONDA_PATH = ROOT / "conda.yaml"
MAIN_EXTRA = "dev"
IMAGE_EXTRAS = ("serving", "control", "tracking", "worker", "ingest")
# `mlflow run` by hand starts what it does not find running: the embedded database and the tracking server too.
CONDA_EXTRA = "all"
PYTHON_VERSION = "3.11"

_RULES = (
    "--universal",
    f"--python-version={PYTHON_VERSION}",
    # Otherwise a package that has left an old Python is pinned twice.
    "--fork-strategy=fewest",
    "--generate-hashes",
    "--no-header",
    "--no-annotate",
    "--no-emit-index-url",
    "--no-emit-find-links",
    "--quiet",
)


def find_image_lock(extra: str) -> Path:
    """The lock of the image that is installed with this extra."""
    return ROOT / "deploy" / f"requirements-{extra}.lock"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write all of them; versions that pyproject.toml still allows stay, unless `--upgrade` asks for the newest."""
    parser = argparse.ArgumentParser(description="Write the lock files and conda.yaml from pyproject.toml.")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that pyproject.toml allows")
    options = parser.parse_args(arguments)
    write_lock(MAIN_LOCK, MAIN_EXTRA, ["--upgrade"] if options.upgrade else [])
    bound = [f"--constraints={MAIN_LOCK}", "--upgrade"]
    for extra in IMAGE_EXTRAS:
        write_lock(find_image_lock(extra), extra, bound)
    with tempfile.TemporaryDirectory() as folder:
        closure = Path(folder) / "conda.lock"
        write_lock(closure, CONDA_EXTRA, bound)
        CONDA_PATH.write_text(build_conda_environment(read_pins(closure)), encoding="utf-8")


def write_lock(path: Path, extra: str, options: Sequence[str]) -> None:
    """Write the closure of the project with one extra, and of what builds it, as a lock file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "-", f"--extra={extra}"]
    subprocess.run(
        [*command, *_RULES, *options, f"--output-file={path}"],
        check=True,
        cwd=ROOT,
        input="\n".join(project["build-system"]["requires"]),
        text=True,
        stdout=subprocess.DEVNULL,
    )


def read_pins(path: Path) -> list[str]:
    """The requirements of a lock without their hashes, as in `numpy==2.4.6 ; python_version < '3.13'`."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.removesuffix("\\").strip() for line in lines if line and not line.startswith((" ", "#"))]


def build_conda_environment(pins: Sequence[str]) -> str:
    """The text of conda.yaml: Python from conda, all else from the package index at the lock's versions."""
    pip_version = next(pin for pin in read_pins(MAIN_LOCK) if pin.startswith("pip==")).removeprefix("pip==")
    head = f"""\
# Written by `make lock`, with the versions of requirements.lock.
name: millrace
channels:
  - conda-forge
dependencies:
  - python={PYTHON_VERSION}
  - pip={pip_version}
  - pip:
"""
    return head + "".join(f'      - "{pin}"\n' for pin in pins)


if __name__ == "__main__":
    main()
