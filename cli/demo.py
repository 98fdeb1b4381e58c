"""`millrace demo`: the whole loop once, on a private folder and free ports, each step with its evidence."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import httpx
import numpy as np
import typer
from numpy.typing import NDArray

from cli.output import console
from core.api_tokens import internal_token
from core.database import create_database_engine
from core.embedded_database import EmbeddedDatabase
from core.errors import DemoStepFailed
from core.home import make_home
from core.principals import Role
from ingestion.reading import read_columns
from jobs.training import PROJECT_FOLDER
from workloads.catalogue import get_workload
from workloads.declaration import Workload

MODEL = "prices"
_WINDOWS = 300
_START_S = 180.0
_TRAINING_S = 300.0
_CHECK_S = 180.0
_FOLLOW_S = 10.0
_POLL_S = 0.5
Result = TypeVar("Result")
_SHIFT = 0.04
_STRETCH = 3.0
_MAX_BYTES = 2**29
_REQUEST_S = 60.0
_OPEN_STATES = ("queued", "running")
_SETTINGS = ("MILLRACE_", "MLFLOW_", "DATABASE_URL", "AUTO_TRAIN_ON_STARTUP")


def add_commands(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command()(demo)


def demo(
    *,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="A CSV of daily prices; without it the sample data.", exists=True, dir_okay=False),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Work here and keep it; without it in a folder that is removed.")
    ] = None,
) -> None:
    """Run the whole loop once: data in, trained, gated, served, drifted, retrained, gated again."""
    with _private_folder(folder) as place:
        began = time.monotonic()
        workload = get_workload(MODEL)
        path = data
        if path is None:
            path = place / "sample.csv"
            workload.load_function("sample")(path)
        with _running_platform(place) as client:
            _Demo(client, workload, path, folder or Path(tempfile.mkdtemp(prefix="millrace-demo-report-"))).run()
        console.print(f"\nEvery step held, in {time.monotonic() - began:.0f} s.", style="bold green")


@dataclass(frozen=True)
class _Client:
    """Requests to the platform's one address, and to MLflow's own API for the evidence."""

    serving: httpx.Client
    tracking: httpx.Client

    def get(self, path: str) -> Any:
        return _read(self.serving.get(path))

    def post(self, path: str, body: object = None) -> Any:
        return _read(self.serving.post(path, json={} if body is None else body))

    def ask_mlflow(self, method: str, **parameters: str) -> Any:
        return _read(self.tracking.get(f"/api/2.0/mlflow/{method}", params=parameters))


def _read(response: httpx.Response) -> Any:
    if response.is_error:
        raise DemoStepFailed(str(response.request.url), f"HTTP {response.status_code}: {response.text[:500]}")
    return response.json()


@dataclass(frozen=True)
class _Demo:
    client: _Client
    workload: Workload
    data: Path
    report_folder: Path

    def run(self) -> None:
        """Every step in order; raises DemoStepFailed at the first that does not hold."""
        self._bring_data_in()
        first = self._train()
        champion = self._show_production(first)
        self._predict(champion)
        finding = self._drift(champion)
        self._show_report(finding)
        second = self._follow_retraining(finding)
        self._show_follow(champion, second)

    def _bring_data_in(self) -> None:
        with self.data.open("rb") as file:
            upload = {"file": (self.data.name, file, "text/csv")}
            counts = _read(self.client.serving.post(f"/models/{MODEL}/observations", files=upload))
        _require(counts["rows_new"] > 0, "data in", f"no new row: {counts}")
        _show("data in", f"{self.data.name}: {counts['rows_new']} rows stored")

    def _train(self) -> Mapping[str, Any]:
        training = self._follow_training(self.client.post(f"/models/{MODEL}/trainings")["id"])
        run = _wait(lambda: self._find_finished_run(training["run_id"]), _FOLLOW_S, "run tracked", "a finished run")
        metrics = {metric["key"]: metric["value"] for metric in run["data"]["metrics"]}
        parameters = run["data"]["params"]
        datasets = run.get("inputs", {}).get("dataset_inputs", [])
        artifacts = self.client.ask_mlflow("artifacts/list", run_id=training["run_id"], path="plots")["files"]
        _require(
            bool(parameters and datasets and len(artifacts) >= 3), "run tracked", "parameters, dataset or plots lack"
        )
        _show(
            "run tracked",
            f"run {training['run_id'][:8]}: {len(parameters)} parameters, {len(metrics)} metrics, "
            f"{len(artifacts)} plots, dataset {datasets[0]['dataset']['digest'][:12]}",
        )
        ratio = metrics["holdout_mae"] / metrics["persistence_mae"]
        _show(
            "evaluation",
            f"hold-out MAE {metrics['holdout_mae']:.6g}, RMSE {metrics['holdout_rmse']:.6g}, "
            f"MAPE {metrics['holdout_mape']:.3g} %; persistence {metrics['persistence_mae']:.6g}, "
            f"{metrics['persistence_rmse']:.6g}, {metrics['persistence_mape']:.3g} % (MAE ratio {ratio:.4f})",
        )
        return training

    def _find_finished_run(self, run_id: str) -> Mapping[str, Any] | None:
        run: Mapping[str, Any] = self.client.ask_mlflow("runs/get", run_id=run_id)["run"]
        return run if run["info"]["status"] == "FINISHED" else None

    def _show_production(self, training: Mapping[str, Any]) -> int:
        verdict = training["verdict"]
        passed = ", ".join(check["name"] for check in verdict["checks"] if check["has_passed"])
        _require(verdict["outcome"] == "promote", "version gated", f"{verdict['outcome']}: {verdict['reason']}")
        version = int(training["version"])
        found = self.client.ask_mlflow("model-versions/get", name=MODEL, version=str(version))["model_version"]
        _require(found["current_stage"] == "Production", "version gated", f"its stage is {found['current_stage']}")
        _show("version gated", f"version {version}: {verdict['outcome']} ({passed} passed); its stage is Production")
        return version

    def _predict(self, champion: int) -> None:
        window = self._load_windows()[-1]
        _wait(lambda: self._serves(window, champion), _FOLLOW_S, "prediction served", f"version {champion} by then")
        answer = self.client.post("/predict", {"values": window.tolist()})
        _require(answer["checkpoint_path"] == f"models:/{MODEL}/{champion}", "prediction served", str(answer))
        _show("prediction served", f"{answer['prediction']:.6g} after {window[-1]:.6g}, by {answer['checkpoint_path']}")

    def _serves(self, window: NDArray[np.float64], version: int) -> bool:
        response = self.client.serving.post(f"/models/{MODEL}/predict", json={"values": window.tolist()})
        return response.is_success and response.json()["version"] == version

    def _drift(self, champion: int) -> Mapping[str, Any]:
        windows = self._load_windows()[-_WINDOWS:]
        self._serve_shifted(windows, champion)
        seen = 0
        deadline = time.monotonic() + _CHECK_S
        while time.monotonic() < deadline:
            finding = self._check()
            if finding["rows"] >= (seen + 1) * len(windows):
                seen += 1
                _require(finding["is_drifted"], "drift found", "; ".join(finding["reasons"]))
                _show(
                    "drift found" if seen == 1 else "drift confirmed",
                    f"distance {finding['statistic']:.3f} above {finding['threshold']:.3f} on {finding['rows']} rows: "
                    f"{finding['outcome']}",
                )
                if finding["outcome"] == "retrain":
                    return finding
                # Only further rows can confirm what these have shown.
                self._serve_shifted(windows, champion)
        raise DemoStepFailed("drift found", f"no finding started a training within {_CHECK_S:g} s")

    def _serve_shifted(self, windows: NDArray[np.float64], champion: int) -> None:
        for window in windows:
            change = np.log(window[-1] / window[-2])
            shifted = [*window[:-1].tolist(), float(window[-2] * np.exp(_SHIFT + _STRETCH * change))]
            answer = self.client.post(f"/models/{MODEL}/predict", {"values": shifted})
            _require(answer["version"] == champion, "drift found", f"version {answer['version']} answered")

    def _check(self) -> Mapping[str, Any]:
        before = {finding["id"] for finding in self.client.get(f"/models/{MODEL}/findings")}
        self.client.post(f"/models/{MODEL}/checks")

        def find() -> list[Mapping[str, Any]]:
            findings = self.client.get(f"/models/{MODEL}/findings")
            return [entry for entry in findings if entry["id"] not in before and entry["report"]]

        return _wait(find, _CHECK_S, "drift found", "a finding with its report")[0]

    def _show_report(self, finding: Mapping[str, Any]) -> None:
        response = self.client.serving.get(f"/models/{MODEL}/reports/{finding['id']}")
        _require(response.is_success and "<html" in response.text.lower(), "report written", response.text[:300])
        shown = f"{finding['statistic']:.3f}"
        _require(shown in response.text, "report written", f"the page does not show the statistic {shown}")
        path = self.report_folder / "report.html"
        path.write_text(response.text, encoding="utf-8")
        _show("report written", f"{len(response.content) / 1e6:.1f} MB of HTML at {path}")

    def _follow_retraining(self, finding: Mapping[str, Any]) -> Mapping[str, Any]:
        _require(finding["training_id"] is not None, "retraining started", "the finding names no training")
        training = self.client.get(f"/trainings/{finding['training_id']}")
        _require(training["cause"] == "finding", "retraining started", f"its cause is {training['cause']}")
        _show("retraining started", f"training {training['id'][:8]}, cause {training['cause']} {finding['id'][:8]}")
        training = self._follow_training(training["id"])
        verdict = training["verdict"]
        _show("challenger gated", f"version {verdict['version']}: {verdict['outcome']}. {verdict['reason']}")
        return training

    def _show_follow(self, champion: int, training: Mapping[str, Any]) -> None:
        verdict = training["verdict"]
        expected = int(verdict["version"]) if verdict["outcome"] == "promote" else champion
        window = self._load_windows()[-1]
        _wait(lambda: self._serves(window, expected), _FOLLOW_S, "api follows", f"version {expected} by then")
        history = self.client.get(f"/models/{MODEL}/history")
        _require(history[0]["version"] == expected, "api follows", f"the history says {history[0]}")
        _show(
            "api follows", f"version {expected} answers, as the verdict says; {len(history)} transitions in the history"
        )

    def _follow_training(self, training_id: str) -> Mapping[str, Any]:
        def ended() -> Mapping[str, Any] | None:
            training: Mapping[str, Any] = self.client.get(f"/trainings/{training_id}")
            return None if training["state"] in _OPEN_STATES else training

        training = _wait(ended, _TRAINING_S, "training", "a finished training")
        _require(training["state"] == "finished", "training", f"{training['state']}: {training['error']}")
        return training

    def _load_windows(self) -> NDArray[np.float64]:
        """Windows of the data `(windows, steps)`."""
        contract = self.workload.build_contract()
        closes = read_columns(contract, self.data, max_bytes=_MAX_BYTES)[contract.target].astype(np.float64)
        return np.lib.stride_tricks.sliding_window_view(closes, contract.steps)


@contextmanager
def _private_folder(wanted: Path | None) -> Iterator[Path]:
    if wanted is not None:
        make_home(wanted)
        yield wanted.absolute()
        return
    place = Path(tempfile.mkdtemp(prefix="millrace-demo-"))
    # As root the database runs as another user, whom the way to its folder has to let through.
    place.chmod(0o755)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _running_platform(folder: Path) -> Iterator[_Client]:
    serving, control, tracking, mqtt = _find_free_ports(4)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    environment = {
        **inherited,
        "PYTHONPATH": str(PROJECT_FOLDER),
        "MILLRACE_HOME": str(folder / "home"),
        "MILLRACE_ARTIFACTS": str(folder / "mlruns"),
        "MILLRACE_SERVING_PORT": str(serving),
        "MILLRACE_CONTROL_PORT": str(control),
        "MILLRACE_TRACKING_PORT": str(tracking),
        "MILLRACE_MQTT_PORT": str(mqtt),
        "MILLRACE_SAMPLE_DATA": "false",
        "AUTO_TRAIN_ON_STARTUP": "false",
    }
    log_path = folder / "up.log"
    with log_path.open("wb") as log:
        platform = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "up"],
            # Not the checkout's folder, whose `.env` names the team's own platform.
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        began = time.monotonic()

        def is_up() -> bool:
            if platform.poll() is not None:
                raise DemoStepFailed("platform started", log_path.read_text(encoding="utf-8")[-2000:])
            return "Ctrl-C stops" in log_path.read_text(encoding="utf-8")

        _wait(is_up, _START_S, "platform started", "every process")
        _show("platform started", f"in {time.monotonic() - began:.0f} s, port {serving}")
        engine = create_database_engine(EmbeddedDatabase(folder / "home").url, pool_size=1)
        with (
            internal_token(engine, "demo", Role.ADMINISTRATOR) as token,
            httpx.Client(
                base_url=f"http://127.0.0.1:{serving}", headers={"Authorization": f"Bearer {token}"}, timeout=_REQUEST_S
            ) as to_serving,
            httpx.Client(base_url=f"http://127.0.0.1:{tracking}", timeout=_REQUEST_S) as to_tracking,
        ):
            yield _Client(to_serving, to_tracking)
        engine.dispose()
    finally:
        platform.send_signal(signal.SIGINT)
        code = platform.wait(60)
    _require(code == 0, "platform stopped", f"exit code {code}: {log_path.read_text(encoding='utf-8')[-500:]}")
    _show("platform stopped", "every process ended")


def _find_free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _wait(look: Callable[[], Result | None], timeout_s: float, step: str, what: str) -> Result:
    deadline = time.monotonic() + timeout_s
    while True:
        found = look()
        if found is not None and found is not False and found != []:
            return found
        if time.monotonic() > deadline:
            raise DemoStepFailed(step, f"waited {timeout_s:g} s for {what}")
        time.sleep(_POLL_S)


def _require(holds: bool, step: str, reason: str) -> None:
    if not holds:
        raise DemoStepFailed(step, reason)


def _show(step: str, evidence: str) -> None:
    console.print(f"[green]ok[/green]  {step:<20} ", end="")
    console.print(evidence, markup=False, soft_wrap=True)
