"""MLflow through the door: its pages, its api and its own clients, as each role and as nobody."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import mlflow
import psycopg
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException, RestException
from sqlalchemy import make_url

from core.audit import AuditFilter, load_entries
from core.database import build_libpq_url, migrate_database
from core.principals import Role
from core.reconciliation import reconcile
from core.registry import Registry
from core.tables.data import workloads
from core.transitions import load_history
from tests.accounts import TOKEN
from tests.control.roles import as_role, build_token
from tests.control.running import TIMEOUT_S, Controlled, controlling

AddVersion = Callable[[], int]


def test_pages_load_through_the_door(tracked: Controlled) -> None:
    slash = tracked.client.get("/mlflow", follow_redirects=False)
    assert (slash.status_code, slash.headers["location"]) == (307, "/mlflow/")
    page = tracked.client.get("/mlflow/")
    assert page.status_code == 200
    assert "<title>MLflow</title>" in page.text
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(named) >= 3
    for name in named:
        assert not name.startswith("/"), "pages under a prefix need relative addresses"
        assert tracked.client.get(httpx.URL(str(page.url)).join(name)).status_code == 200


def test_client_logs_and_reads_through_the_door(
    tracked: Controlled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
    door = MlflowClient(tracking_uri=f"{tracked.address}/mlflow", registry_uri=f"{tracked.address}/mlflow")
    run_id = tracked.connections.tracking.start_run("prices", None, {})
    (tmp_path / "note.txt").write_bytes(b"x" * 3_000_000)
    door.log_metric(run_id, "mae", 1.5)
    door.log_artifact(run_id, str(tmp_path / "note.txt"), "notes")
    assert door.get_run(run_id).data.metrics == {"mae": 1.5}
    assert tracked.connections.tracking.find_artifact(run_id, "notes/note.txt", 10_000_000) == b"x" * 3_000_000
    fetched = Path(door.download_artifacts(run_id, "notes/note.txt", str(tmp_path / "..")))
    assert fetched.read_bytes() == b"x" * 3_000_000


@pytest.mark.parametrize("api", ["api", "ajax-api"])
def test_server_info_offers_no_transfer_past_the_door(tracked: Controlled, api: str) -> None:
    address = tracked.connections.settings.tracking_address
    direct = httpx.get(f"{address}/{api}/3.0/mlflow/server-info").json()
    through = tracked.client.get(f"/mlflow/{api}/3.0/mlflow/server-info").json()
    assert direct["presigned_upload_run_id_supported"] is True
    assert through.keys() == direct.keys()
    changed = {name for name in direct if direct[name] != through[name]}
    assert "presigned_upload_run_id_supported" in changed
    assert not any(through[name] for name in changed)
    assert through["store_type"] == "SqlStore"


def test_mlflow_answers_for_what_is_not_there(tracked: Controlled) -> None:
    response = tracked.client.get("/mlflow/api/2.0/mlflow/runs/get", params={"run_id": "0" * 32})
    assert response.status_code == 404
    assert response.json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"


def test_mlflow_sees_who_calls_from_beyond_this_machine(tracked: Controlled) -> None:
    # MLflow's assistant runs commands on its machine and answers to callers on it alone.
    path = "/mlflow/ajax-api/3.0/mlflow/assistant/providers/nothing/health"
    assert tracked.client.get(path).status_code == 404
    assert tracked.client.get(path, headers={"X-Forwarded-For": "10.0.0.9"}).status_code == 403


# --- as each role --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(database_url: str, tracking_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controlled]:
    """The control plane on the tracking server, whose door asks for a token of a role."""
    with psycopg.connect(build_libpq_url(database_url), autocommit=True) as connection:
        connection.execute("CREATE DATABASE guarded_door")
    url = make_url(database_url).set(database="guarded_door").render_as_string(hide_password=False)
    migrate_database(url)
    with controlling(tmp_path_factory.mktemp("guarded"), url, tracking_server) as running:
        yield running


@pytest.fixture
def enter(guarded: Controlled, monkeypatch: pytest.MonkeyPatch) -> Callable[[Role | None], MlflowClient]:
    """MLflow's client at the door, with the token of a role as its users give it."""

    def enter_as(role: Role | None) -> MlflowClient:
        address = f"{guarded.address}/mlflow"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", build_token(role) if role is not None else "nobody's")
        mlflow.set_tracking_uri(address)
        mlflow.set_registry_uri(address)
        return MlflowClient()

    return enter_as


Enter = Callable[[Role | None], MlflowClient]


def test_operator_logs_and_viewer_reads(enter: Enter, model: str, tmp_path: Path) -> None:
    (tmp_path / "note 1 ä.txt").write_bytes(b"x" * 2_000_000)
    operator = enter(Role.OPERATOR)
    experiment = mlflow.set_experiment(model)
    with mlflow.start_run() as run:
        mlflow.log_params({"steps": 3})
        mlflow.log_metrics({"mae": 1.5, "loss": 2.5})
        mlflow.set_tag("team", "sea")
        mlflow.log_artifact(str(tmp_path / "note 1 ä.txt"), "notes")
        mlflow.log_dict({"a": 1}, "document.json")
    operator.create_registered_model(model)
    created = operator.create_model_version(model, f"{run.info.artifact_uri}/notes", run.info.run_id)
    operator.set_model_version_tag(model, created.version, "checked", "yes")

    viewer = enter(Role.VIEWER)
    (found,) = viewer.search_runs([experiment.experiment_id], "metrics.mae > 1")
    assert (found.data.params, found.data.metrics["loss"]) == ({"steps": "3"}, 2.5)
    assert viewer.get_metric_history(run.info.run_id, "mae")[0].value == 1.5
    assert [file.path for file in viewer.list_artifacts(run.info.run_id)] == ["document.json", "notes"]
    fetched = Path(mlflow.artifacts.download_artifacts(f"models:/{model}/1", dst_path=str(tmp_path / "fetched")))
    assert (fetched / "note 1 ä.txt").read_bytes() == b"x" * 2_000_000
    assert viewer.get_model_version(model, "1").tags == {"checked": "yes"}
    assert [one.name for one in viewer.search_registered_models(f"name = '{model}'")] == [model]


def test_roles_below_are_told_in_mlflows_own_words(enter: Enter, guarded: Controlled, model: str) -> None:
    viewer = enter(Role.VIEWER)
    with pytest.raises(RestException, match=r"for the role operator and above, and 'token:vera' is viewer") as refused:
        viewer.create_experiment(model)
    assert refused.value.error_code == "PERMISSION_DENIED"
    operator = enter(Role.OPERATOR)
    operator.create_registered_model(model)
    with pytest.raises(RestException, match="for the role administrator"):
        operator.delete_registered_model(model)
    with pytest.raises(RestException, match="for the role administrator"):
        operator.set_registered_model_alias(model, "production", "1")
    nobody = enter(None)
    with pytest.raises(MlflowException, match="The token is not valid"):
        nobody.get_registered_model(model)
    assert enter(Role.VIEWER).get_registered_model(model).name == model


def test_administrator_moves_a_stage_and_the_history_names_them(
    enter: Enter, guarded: Controlled, registry: Registry, model: str, add_version: AddVersion
) -> None:
    engine = guarded.connections.engine
    with engine.begin() as connection:
        connection.execute(workloads.insert().values(model=model, contract={}))
    add_version()
    with pytest.warns(FutureWarning, match="stages"), pytest.raises(RestException, match="administrator"):
        enter(Role.OPERATOR).transition_model_version_stage(model, "1", "Production")
    with pytest.warns(FutureWarning, match="stages"):
        enter(Role.ADMINISTRATOR).transition_model_version_stage(model, "1", "production")
    fetched = mlflow.artifacts.download_artifacts(f"models:/{model}/Production")
    assert (Path(fetched) / "contract.json").exists()
    reconcile(engine, registry)
    with engine.connect() as connection:
        (moved,) = load_history(connection, model)
        assert (moved.version, moved.origin, moved.cause, moved.actor) == (1, "external", "external", "token:ada")
        done = [one for one in load_entries(connection, AuditFilter(model=model), 10) if one.outcome == "done"]
    assert [(one.actor, one.target) for one in done] == [("token:ada", "version 1 to Production")]


def test_files_of_the_servers_machine_are_no_artifacts(enter: Enter, model: str, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hidden")
    with pytest.raises(RestException, match="files of the tracking server's machine"):
        enter(Role.OPERATOR).create_experiment(model, artifact_location=str(tmp_path))


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.ADMINISTRATOR], ids=lambda role: role.word)
def test_files_of_a_registered_version_are_written_by_nobody(
    enter: Enter, guarded: Controlled, model: str, tmp_path: Path, role: Role
) -> None:
    operator = enter(Role.OPERATOR)
    experiment_id = operator.create_experiment(model)
    operator.create_registered_model(model)
    run = operator.create_run(experiment_id)
    logged = operator.create_logged_model(experiment_id, model, run.info.run_id)
    (tmp_path / "weights.bin").write_bytes(b"judged")
    operator.log_artifact(run.info.run_id, str(tmp_path / "weights.bin"), "version 1/deep")
    operator.log_model_artifacts(logged.model_id, str(tmp_path))
    run_folder = f"{experiment_id}/{run.info.run_id}/artifacts"
    model_folder = f"{experiment_id}/models/{logged.model_id}/artifacts"
    operator.create_model_version(model, f"runs:/{run.info.run_id}/version 1", run.info.run_id)
    operator.create_model_version(model, f"models:/{logged.model_id}", run.info.run_id, model_id=logged.model_id)

    def put(path: str) -> httpx.Response:
        # As it stands: httpx would encode it anew.
        url = httpx.URL(guarded.address).copy_with(
            raw_path=f"/mlflow/api/2.0/mlflow-artifacts/artifacts/{path}".encode()
        )
        return guarded.client.put(url, content=b"another", headers=as_role(role))

    for path in (
        f"{run_folder}/version%201/deep/weights.bin",
        f"{run_folder}/version%201/one-more.bin",
        f"{run_folder}/version%25201/deep/weights.bin",
        f"{run_folder}/%252e/version%201/deep%252f%252fweights.bin",
        f"{model_folder}/weights.bin",
        f"{model_folder}%2Fweights.bin",
    ):
        refused = put(path)
        assert (refused.status_code, refused.json()["error_code"]) == (403, "PERMISSION_DENIED"), path
        assert "once the version is registered" in refused.json()["message"]
    upload = "/mlflow/ajax-api/2.0/mlflow/upload-artifact"
    named = [("run_uuid", run.info.run_id), ("path", "version 1/deep/weights.bin"), ("path", "other.bin")]
    headers = as_role(role)
    for query in (named, [named[0], named[2], named[1]]):
        assert guarded.client.post(upload, params=query, content=b"another", headers=headers).status_code == 403
    for version in ("1", "2"):
        fetched = Path(
            mlflow.artifacts.download_artifacts(
                f"models:/{model}/{version}", dst_path=str(tmp_path / f"{role.word} {version}")
            )
        )
        assert [file.read_bytes() for file in fetched.rglob("weights.bin")] == [b"judged"]
    # The run goes on beside its version.
    assert put(f"{run_folder}/version%202/weights.bin").status_code == 200
    assert put(f"{run_folder}/notes.txt").status_code == 200


def test_files_of_a_trace_stay_in_the_store(enter: Enter, guarded: Controlled, model: str, tmp_path: Path) -> None:
    operator = enter(Role.OPERATOR)
    traces = "/mlflow/api/2.0/mlflow/traces"
    begun = {"experiment_id": operator.create_experiment(model), "timestamp_ms": time.time_ns() // 1_000_000}
    headers = as_role(Role.OPERATOR)
    started = guarded.client.post(traces, json=begun, headers=headers)
    assert started.status_code == 200, started.text
    trace = started.json()["trace_info"]
    (kept,) = [tag["value"] for tag in trace["tags"] if tag["key"] == "mlflow.artifactLocation"]
    (tmp_path / "traces.json").write_text('{"spans": [], "hidden": 1}')
    # MLflow's own client does not send such a tag: whoever wants to, needs none.
    tags = f"{traces}/{trace['request_id']}/tags"
    elsewhere = {"key": "mlflow.artifactLocation", "value": str(tmp_path)}
    assert guarded.client.patch(tags, json=elsewhere, headers=headers).status_code == 403
    found = guarded.client.get(
        "/mlflow/ajax-api/3.0/mlflow/get-trace-artifact",
        params={"request_id": trace["request_id"]},
        headers=as_role(Role.VIEWER),
    )
    assert found.status_code == 404 and "hidden" not in found.text
    operator.set_trace_tag(trace["request_id"], "team", "sea")
    ended = begun | {"status": "OK", "tags": [{"key": "mlflow.artifactLocation", "value": kept}]}
    assert guarded.client.patch(f"{traces}/{trace['request_id']}", json=ended, headers=headers).status_code == 200


def test_transfers_past_the_door_are_not_offered_and_clients_go_on_through_it(
    enter: Enter, monkeypatch: pytest.MonkeyPatch, model: str, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "true")
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", "1000")
    operator = enter(Role.OPERATOR)
    (tmp_path / "large.bin").write_bytes(b"y" * 10_000)
    run = operator.create_run(operator.create_experiment(model))
    operator.log_artifact(run.info.run_id, str(tmp_path / "large.bin"))
    fetched = operator.download_artifacts(run.info.run_id, "large.bin", str(tmp_path))
    assert Path(fetched).read_bytes() == b"y" * 10_000


def test_graphql_of_mlflows_pages_is_answered(guarded: Controlled, enter: Enter, model: str) -> None:
    experiment_id = enter(Role.OPERATOR).create_experiment(model)
    query = "query Q($input: MlflowGetExperimentInput!) { mlflowGetExperiment(input: $input) { experiment { name } } }"
    document = {"operationName": "Q", "query": query, "variables": {"input": {"experimentId": experiment_id}}}
    answer = guarded.client.post("/mlflow/graphql", json=document, headers=as_role(Role.VIEWER))
    assert answer.json()["data"] == {"mlflowGetExperiment": {"experiment": {"name": model}}}


def test_pages_are_for_those_who_signed_in(guarded: Controlled) -> None:
    answer = httpx.get(f"{guarded.address}/mlflow/", timeout=TIMEOUT_S)
    assert answer.status_code == 401
    assert "<title>MLflow</title>" in guarded.client.get("/mlflow/", headers=as_role(Role.VIEWER)).text
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error_code"] == "UNAUTHENTICATED"
    assert answer.json()["message"].startswith("The request carries no token.")
