"""The tutorial's commands, run as they stand there, on a copy of the checkout and a platform of their own."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from core.embedded_database import EmbeddedDatabase
from tests.conftest import REPOSITORY, find_free_port, make_open_folder
from tests.workloads.test_proposing import write_pumps

_TUTORIAL = (REPOSITORY / "docs" / "tutorial.md").read_text(encoding="utf-8")
_COMMANDS = re.findall(r"^```bash\n(.*?)^```$", _TUTORIAL, re.MULTILINE | re.DOTALL)
_LEFT_OUT = shutil.ignore_patterns(".*", "mlruns", "__pycache__", "tests", "*.egg-info")


@pytest.fixture
def home() -> Iterator[Path]:
    folder = make_open_folder()
    yield folder
    EmbeddedDatabase(folder).stop()
    shutil.rmtree(folder, ignore_errors=True)


def run(command: str, folder: Path, environment: Mapping[str, str]) -> str:
    program = f"{sys.executable} -m cli.main"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", re.sub(r"^millrace\b", program, command, flags=re.MULTILINE)],
        cwd=folder,
        env={**os.environ, **environment},
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_tutorial_leads_from_a_csv_to_a_version_that_answers(tmp_path: Path, home: Path) -> None:
    copy = tmp_path / "checkout"
    shutil.copytree(REPOSITORY, copy, ignore=_LEFT_OUT)
    write_pumps(copy / "pumps.csv")
    environment = {
        "MILLRACE_HOME": str(home),
        "MILLRACE_ARTIFACTS": str(tmp_path / "mlruns"),
        "MILLRACE_TRACKING_PORT": str(find_free_port()),
        "COLUMNS": "200",
        "PYTHONPATH": str(copy),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    assert len(_COMMANDS) == 4
    printed = [run(command, copy, environment) for command in _COMMANDS]
    assert "pumps holds together: tabular binary of 'failed' from 4 features" in printed[1]
    assert "Version 1: promote" in printed[2]
    assert "pumps serves 1.0.0" in printed[3]
    answer = run("millrace predict pumps pumps.csv --version 1.0.0 --json", copy, environment)
    assert len(json.loads(answer)["predictions"]) == 900
