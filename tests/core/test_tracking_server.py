import contextlib
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import make_url
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from core.errors import TrackingUnavailable
from core.settings import load_settings
from core.tracking_server import build_server_command, is_tracking_ready, wait_for_tracking
from tests.conftest import find_free_port
from tests.web.running import running

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


async def _answer_who_is_known(scope: Scope, receive: Receive, send: Send) -> None:
    is_known = (b"authorization", b"Bearer a-token") in scope.get("headers", [])
    await Response(status_code=200 if is_known else 401)(scope, receive, send)


def test_readiness_is_asked_for_with_the_token_where_the_address_is_the_doors(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(_answer_who_is_known) as address:
        assert not is_tracking_ready(f"{address}/mlflow")
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "a-token")
        assert is_tracking_ready(f"{address}/mlflow")


def test_readiness_is_told_and_waited_for(tracking_server: str) -> None:
    assert is_tracking_ready(tracking_server)
    wait_for_tracking(tracking_server, 5)
    nowhere = f"http://127.0.0.1:{find_free_port()}"
    assert not is_tracking_ready(nowhere)
    with pytest.raises(TrackingUnavailable, match=r"no answer within 0\.3 s"):
        wait_for_tracking(nowhere, 0.3)
