"""A home with a running database, and commands in it."""

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli import output
from cli.main import main
from core.embedded_database import running_database
from tests.cli.running import Done, Run, build_environment
from tests.conftest import make_open_folder

_WIDTH = 300


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home whose embedded database runs for the module, so that commands find it running."""
    folder = make_open_folder()
    with running_database(folder):
        yield folder


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs a command as a person does, in this process: `run(*arguments, **environment)`."""
    # It took the terminal's width when it was imported.
    monkeypatch.setattr(output.console, "width", _WIDTH)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    umask = os.umask(0o022)
    os.umask(umask)

    def run_here(*arguments: str, **environment: str) -> Done:
        for name, value in {**build_environment(home), **environment}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(home)
        monkeypatch.setattr(sys, "argv", ["millrace", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        assert isinstance(code, int)
        printed = capsys.readouterr()
        return Done(code, printed.out, printed.err)

    yield run_here
    root.handlers[:], root.level = handlers, level
    os.umask(umask)
