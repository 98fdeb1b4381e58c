import contextlib
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import make_url

from core.errors import TrackingUnavailable
from core.settings import load_settings
from core.tracking_server import build_server_command, is_tracking_ready, wait_for_tracking
from tests.conftest import find_free_port

PASSWORD = "a-long-password"
DATABASE_URL = f"postgresql://millrace:{PASSWORD}@db.example:5432/millrace"


def test_server_command_carries_no_password() -> None:
    command, environment = build_server_command(load_settings(), DATABASE_URL)
    assert PASSWORD not in " ".join(command)
    expected = f"postgresql+psycopg2://millrace:{PASSWORD}@db.example:5432/mlflow"
    assert environment["MLFLOW_BACKEND_STORE_URI"] == expected


def test_server_uses_its_own_store_where_one_is_set() -> None:
    own = SecretStr(f"postgresql://tracker:{PASSWORD}@other.example/runs")
    _, environment = build_server_command(load_settings(mlflow_database_url=own), DATABASE_URL)
    expected = f"postgresql+psycopg2://tracker:{PASSWORD}@other.example/runs"
    assert environment["MLFLOW_BACKEND_STORE_URI"] == expected


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="command lines are read from /proc")
def test_running_server_shows_no_password_to_other_users_of_the_machine(
    tracking_server: str, database_url: str
) -> None:
    port = tracking_server.rpartition(":")[2].encode()
    password = make_url(database_url).password
    assert password
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_bytes())
    ours = [line for line in lines if port in line.split(b"\0")]
    assert ours
    assert not any(str(password).encode() in line for line in ours)


def test_readiness_is_told_and_waited_for(tracking_server: str) -> None:
    assert is_tracking_ready(tracking_server)
    wait_for_tracking(tracking_server, 5)
    nowhere = f"http://127.0.0.1:{find_free_port()}"
    assert not is_tracking_ready(nowhere)
    with pytest.raises(TrackingUnavailable, match=r"no answer within 0\.3 s"):
        wait_for_tracking(nowhere, 0.3)
