"""The README's commands, run as they stand there against a running platform."""

import re
import subprocess

import pytest

from tests.conftest import REPOSITORY
from tests.journeys.running import Platform

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
_COMMANDS = [block for language, block in _BLOCK.findall(_README) if language == "bash"]


@pytest.mark.parametrize("command", _COMMANDS, ids=lambda command: command.split("\n")[0][:60])
def test_command_of_the_readme_works(platform: Platform, command: str) -> None:
    """In the README's order; only the port is the test's own."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command.replace("http://localhost:8000", platform.address)],
        cwd=REPOSITORY,
        env=platform.settings,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


def test_readme_names_every_command(platform: Platform) -> None:
    printed = platform.run("--help").stdout
    commands = set(re.findall(r"│ ([a-z]+) {2,}", printed))
    assert {"up", "serve", "train", "check"} <= commands
    assert [command for command in sorted(commands) if f"`{command}" not in _README] == []


def test_readme_has_commands_of_every_kind() -> None:
    text = "\n".join(_COMMANDS)
    for word in (
        "/predict",
        "/models",
        "millrace ingest",
        "application/x-ndjson",
        "millrace replay",
        "millrace watch",
        "millrace pull",
        "millrace rejected",
        "millrace origin",
        "millrace snapshot",
        "millrace train",
        "millrace check",
        "/findings",
    ):
        assert word in text
