"""MLflow's own deployments client and command against running control and serving, on a real registry."""

import json
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from sqlalchemy import Engine

from core.contracts import write_contracts
from core.promotion import promote
from core.registry import Registry
from core.tracking import Tracking
from serving.app import create_app
from serving.server import build_server
from tests.accounts import TOKEN, TOKEN_VARIABLE
from tests.conftest import find_free_port
from tests.control.running import controlling
from tests.serving.onnx_models import Answers, build_contract, write_version
from tests.serving.running import build_settings, wait_until

WINDOW = [10.0, 20.0, 30.0, 40.0]
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Deployable:
    """A model with version 1 (the mean) in Production and version 2 (twice that), and where it is served."""

    model: str
    target: str
    client: Any


@pytest.fixture
def deployable(
    tmp_path: Path,
    database_url: str,
    shared_engine: Engine,
    registry: Registry,
    tracking: Tracking,
    tracking_server: str,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Deployable]:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    with warnings.catch_warnings():
        # MLflow's own classes raise this while their module loads.
        warnings.filterwarnings("ignore", message=".*Any type hint is inferred as AnyType", category=UserWarning)
        from mlflow.deployments import get_deploy_client

    with shared_engine.begin() as connection:
        write_contracts(connection, [build_contract(model)])
    for answers in ("mean", "double"):
        _register(registry, tracking, model, tmp_path / answers, answers)
    promote(shared_engine, registry, model, 1, actor="test", cause="hand", reason="")
    with controlling(tmp_path / "control", database_url, tracking_server) as controlled:
        settings = build_settings(
            tmp_path, find_free_port(), tracking_uri=tracking_server, control_url=controlled.address
        )
        server = build_server(create_app(settings, database_url), settings)
        thread = threading.Thread(target=server.run)
        thread.start()
        target = f"millrace:{settings.serving_address}"
        client = get_deploy_client(target)  # type: ignore[no-untyped-call]  # MLflow leaves it untyped
        try:
            wait_until(lambda: server.started, TIMEOUT_S)
            wait_until(lambda: model in [found["name"] for found in client.list_deployments()], TIMEOUT_S)
            yield Deployable(model, target, client)
        finally:
            server.should_exit = True
            thread.join()


def _register(registry: Registry, tracking: Tracking, model: str, source: Path, answers: Answers) -> None:
    write_version(source, build_contract(model), answers)
    run_id = tracking.start_run(model, None, {})
    for path in sorted(source.rglob("*")):
        if path.is_file():
            tracking.log_artifact(run_id, path, str(Path("version") / path.parent.relative_to(source)))
    tracking.finish_run(run_id, "FINISHED")
    registry.register(model, run_id, f"runs:/{run_id}/version", {})


def test_mlflows_client_deploys_updates_and_deletes(deployable: Deployable) -> None:
    from mlflow.exceptions import MlflowException

    client, model = deployable.client, deployable.model
    window = np.array(WINDOW).reshape(1, 4, 1)
    before = client.get_deployment(model)
    assert (before["name"], before["target"], before["version"]) == (model, "Production", 1)

    created = client.create_deployment(model, f"models:/{model}/2")
    assert (created["target"], created["version"], created["model_uri"]) == ("2", 2, f"models:/{model}/2")
    assert client.predict(model, window).get_predictions("ndarray").tolist() == [[50.0]]
    with pytest.raises(MlflowException, match="exists, with target '2'") as refused:
        client.create_deployment(model, f"models:/{model}/1")
    assert refused.value.error_code == "RESOURCE_ALREADY_EXISTS"

    client.update_deployment(model, f"models:/{model}/1")
    assert client.get_deployment(model)["target"] == "1"
    assert client.predict(model, window)["predictions"] == [[25.0]]
    with pytest.raises(MlflowException, match="no version '9'"):
        client.update_deployment(model, f"models:/{model}/9")
    assert client.predict(model, window)["predictions"] == [[25.0]]

    client.update_deployment(model, f"models:/{model}@production")
    assert client.get_deployment(model)["target"] == "Production"
    client.update_deployment(model, f"models:/{model}/2")
    client.delete_deployment(model)
    client.delete_deployment(model)
    client.delete_deployment("never_there")
    wait_until(lambda: client.get_deployment(model)["version"] == 1, TIMEOUT_S)
    assert client.predict(model, [[[value] for value in WINDOW]])["predictions"] == [[25.0]]


def test_what_is_not_meant_for_this_target_is_refused(deployable: Deployable) -> None:
    from mlflow.exceptions import MlflowException

    client, model = deployable.client, deployable.model
    for uri, named in (
        ("models:/other/1", "cannot serve 'other'"),
        (f"models:/{model}/latest", "need not have passed the gate"),
        ("runs:/abc/model", "Register a run's model first"),
    ):
        with pytest.raises(MlflowException, match=named):
            client.create_deployment(model, uri)
    with pytest.raises(MlflowException, match="takes no config"):
        client.create_deployment(model, f"models:/{model}/2", config={"workers": "2"})
    with pytest.raises(MlflowException, match="There is no model") as missing:
        client.get_deployment("weather")
    assert missing.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    with pytest.raises(MlflowException, match="Close: -1.0"):
        client.predict(model, np.array([[[-1.0]] * 4]))
    assert client.get_deployment(model)["target"] == "Production"


def test_target_is_an_address_or_the_platform_of_the_settings() -> None:
    from mlflow.exceptions import MlflowException

    from core.deployments import MillraceDeployments

    for target in ("millrace:ftp://host", "millrace:host:8000", "millrace:http://"):
        with pytest.raises(MlflowException, match="is expected"):
            MillraceDeployments(target)
    nowhere = MillraceDeployments(f"millrace:http://127.0.0.1:{find_free_port()}")
    with pytest.raises(MlflowException, match="does not answer"):
        nowhere.list_deployments()


def test_token_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    from core.deployments import MillraceDeployments
    from core.platform_client import TOKEN_VARIABLE
    from tests.web.running import running

    received: list[dict[bytes, bytes]] = []

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        received.append(dict(scope.get("headers", ())))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"13")]})
        await send({"type": "http.response.body", "body": b'{"models":[]}'})

    monkeypatch.setenv(TOKEN_VARIABLE, "a-token")
    with running(answer) as address:
        assert MillraceDeployments(f"millrace:{address}").list_deployments() == []
    assert received[-1][b"authorization"] == b"Bearer a-token"


def test_mlflow_deployments_commands_work(deployable: Deployable, tmp_path: Path) -> None:
    from mlflow.deployments.cli import commands

    model, target = deployable.model, deployable.target
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([{"window": WINDOW}]))

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(commands, [*arguments, "-t", target])
        assert done.exit_code == 0, done.output
        return done.output

    assert f"deployment {model} is created" in run("create", "-m", f"models:/{model}/2", "--name", model)
    assert '"predictions": [[50.0]]' in run("predict", "--name", model, "-I", str(rows))
    assert f"Deployment {model} is updated" in run("update", "-m", f"models:/{model}/1", "--name", model)
    assert "version: 1" in run("get", "--name", model)
    assert f"Deployment {model} is deleted" in run("delete", "--name", model)
    assert f"'name': '{model}'" in run("list")
    assert "MILLRACE_TOKEN" in run("help")
