"""What a command starts for its own length, with a real tracking server."""

import threading
from pathlib import Path

import pytest

from core.errors import TrackingUnavailable
from core.local_platform import open_database, open_platform
from core.settings import Settings, load_settings
from core.tracking_server import is_tracking_ready
from tests.conftest import find_free_port


def test_named_database_is_used_and_migrated(fresh_database_url: str, tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path, database_url=fresh_database_url)

    with open_database(settings) as url, open_database(settings) as again:
        assert url == again == fresh_database_url

    assert not (tmp_path / "postgres").exists()


def test_named_tracking_server_that_is_away_is_not_replaced(fresh_database_url: str, tmp_path: Path) -> None:
    uri = f"http://127.0.0.1:{find_free_port()}"
    settings = load_settings(home=tmp_path, database_url=fresh_database_url, tracking_uri=uri)

    with (
        pytest.raises(TrackingUnavailable, match=f"{uri} does not answer.*MLFLOW_TRACKING_URI"),
        open_platform(settings),
    ):
        pass


def test_tracking_server_runs_until_the_last_command_that_uses_it_has_ended(
    fresh_database_url: str, tmp_path: Path
) -> None:
    settings = load_settings(home=tmp_path, database_url=fresh_database_url, tracking_port=find_free_port())
    address = settings.tracking_address
    opened, leave = threading.Event(), threading.Event()
    answers: list[bool] = []

    with open_platform(settings) as connections:
        connections.registry.load_standings()
        other = threading.Thread(target=_use, args=(settings, opened, leave, answers))
        other.start()
        assert opened.wait(60)
        # The first command leaves by now; the other looks a second later.
        threading.Timer(1.0, leave.set).start()
    other.join()

    assert answers == [True]
    assert not is_tracking_ready(address)


def _use(settings: Settings, opened: threading.Event, leave: threading.Event, answers: list[bool]) -> None:
    with open_platform(settings):
        opened.set()
        leave.wait(60)
        answers.append(is_tracking_ready(settings.tracking_address))
