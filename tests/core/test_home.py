import os
import stat
from pathlib import Path

import pytest

from core.home import make_home


def read_mode(folder: Path) -> int:
    return stat.S_IMODE(folder.stat().st_mode)


def test_home_is_its_owners_alone_and_a_folder_that_is_there_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_mode(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    make_home(tmp_path / "data" / "home")
    assert read_mode(tmp_path) == before
    assert read_mode(tmp_path / "data") == read_mode(tmp_path / "data" / "home") == 0o700
    (tmp_path / "data" / "home").chmod(0o750)
    make_home(tmp_path / "data" / "home")
    assert read_mode(tmp_path / "data" / "home") == 0o750


def test_home_of_root_lets_the_databases_user_through_whatever_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    before = os.umask(0o077)
    try:
        make_home(tmp_path / "data" / "home")
    finally:
        os.umask(before)
    assert read_mode(tmp_path / "data") == read_mode(tmp_path / "data" / "home") == 0o711
