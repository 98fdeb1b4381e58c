"""Which version serves, while registry, database and artifacts change, break and go away."""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from core.alerts import Alert, load_alerts
from core.database import TRANSITIONS_CHANNEL, notify
from core.embedded_database import EmbeddedDatabase
from core.targets import set_target
from core.verdicts import Verdict, store_verdict
from serving.version_alerts import VersionAlerts
from tests.accounts import HEADERS
from tests.serving.folder_registry import FolderRegistry
from tests.serving.onnx_models import Answers
from tests.serving.running import Served, declare, serving, wait_until

VALUES = {"values": [10.0, 20.0, 30.0, 40.0]}


def aim(own_engine: Engine, target: str) -> None:
    with own_engine.begin() as connection:
        set_target(connection, "prices", target, "test")


def find_alert(own_engine: Engine, *, is_open: bool = True) -> Alert | None:
    with own_engine.connect() as connection:
        return next(iter(load_alerts(connection, "prices", is_open=is_open)), None)


def get_checks(served: Served) -> dict[str, tuple[str, str]]:
    checks = served.client.get("/health/ready").json()["checks"]
    return {check["name"]: (check["state"], check["reason"]) for check in checks}


def test_transition_by_hand_is_followed_and_previous_version_kept(served: Served) -> None:
    served.registry.add("prices", 2, answers="double")
    served.registry.set_production("prices", 2)
    served.wait_for_version("prices", 2)
    assert served.predict(VALUES).json()["predictions"] == [50.0]
    model = served.client.get("/models/prices").json()
    assert (model["target"], model["target_version"], model["previous_version"]) == ("Production", 2, 1)
    assert model["failed"] is None
    assert model["contract"]["input_shape"] == [4, 1]
    served.registry.set_production("prices", 1)
    served.wait_for_version("prices", 1)
    assert served.client.get("/models").json()["models"][0]["previous_version"] == 2


def test_notification_is_followed_at_once(
    tmp_path: Path, own_database_url: str, own_engine: Engine, folder_registry: FolderRegistry
) -> None:
    folder_registry.add("prices", 1, answers="mean")
    folder_registry.add("prices", 2, answers="double")
    folder_registry.set_production("prices", 1)
    # A look each 2 s is too slow for what is asked below.
    with serving(tmp_path, own_database_url, folder_registry, follow_interval_s=2.0) as served:
        served.wait_for_version("prices", 1)
        for version in (2, 1, 2, 1):
            folder_registry.set_production("prices", version)
            with own_engine.begin() as connection:
                notify(connection, TRANSITIONS_CHANNEL, "prices")
            started_at = time.monotonic()
            served.wait_for_version("prices", version)
            assert time.monotonic() - started_at < 1.0


def test_swaps_under_load_fail_no_request(served: Served) -> None:
    served.registry.add("prices", 2, answers="double")
    expected = {1: [25.0], 2: [50.0]}
    wrong: list[object] = []
    answered = {1: 0, 2: 0}
    stopping = threading.Event()

    def hammer() -> None:
        with httpx.Client(base_url=served.address, headers=HEADERS, timeout=20) as client:
            while not stopping.is_set():
                response = client.post("/models/prices/predict", json=VALUES)
                body = response.json()
                version = int(response.headers["X-Model-Version"])
                if (
                    response.status_code != 200
                    or body["version"] != version
                    or body["predictions"] != expected[version]
                ):
                    wrong.append(body)
                else:
                    answered[version] += 1

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for swap in range(20):
        version = 2 - swap % 2
        served.registry.set_production("prices", version)
        served.wait_for_version("prices", version)
    stopping.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert min(answered.values()) > 20


def test_download_that_takes_for_ever_holds_up_no_other_model(
    tmp_path: Path, own_database_url: str, folder_registry: FolderRegistry
) -> None:
    for model in ("prices", "other"):
        folder_registry.add(model, 1, answers="mean")
        folder_registry.set_production(model, 1)
    with serving(tmp_path, own_database_url, folder_registry, models=("prices", "other")) as served:
        served.wait_for_version("prices", 1)
        served.wait_for_version("other", 1)
        folder_registry.add("other", 2, answers="mean")
        folder_registry.set_stalled("other", is_stalled=True)
        # More than the web framework has threads.
        with ThreadPoolExecutor(50) as threads:
            asked = [threads.submit(served.predict, VALUES | {"version": 2}, "other") for _ in range(50)]
            try:
                wait_until(lambda: count_in_progress(served) == 50)
                assert served.client.get("/health/ready").status_code == 200
                assert served.client.get("/v2/health/ready").status_code == 200
                assert served.predict(VALUES | {"version": 1}, "other").json()["version"] == 1
                folder_registry.add("prices", 2, answers="double")
                folder_registry.set_production("prices", 2)
                served.wait_for_version("prices", 2)
                assert not any(answer.done() for answer in asked)
            finally:
                folder_registry.set_stalled("other", is_stalled=False)
            assert {answer.result().json()["version"] for answer in asked} == {2}


def test_process_is_not_ready_before_every_model_has_had_its_turn(
    tmp_path: Path, own_database_url: str, folder_registry: FolderRegistry
) -> None:
    for model in ("other", "prices"):
        folder_registry.add(model, 1, answers="mean")
        folder_registry.set_production(model, 1)
    folder_registry.set_stalled("prices", is_stalled=True)
    with serving(tmp_path, own_database_url, folder_registry, models=("other", "prices")) as served:
        try:
            served.wait_for_version("other", 1)
            assert served.client.get("/health/ready").status_code == 503
        finally:
            folder_registry.set_stalled("prices", is_stalled=False)
        wait_until(lambda: served.client.get("/health/ready").status_code == 200)
        assert served.predict(VALUES).json()["version"] == 1


def count_in_progress(served: Served) -> float:
    """How many predictions the process has taken on and not answered."""
    families = text_string_to_metric_families(served.client.get("/metrics").text)
    found = next(family for family in families if family.name == "http_requests_in_progress")
    return found.samples[0].value


@pytest.mark.parametrize("answers", ["damaged", "nan", "wrong_shape"])
def test_version_that_cannot_serve_leaves_the_champion(
    served: Served, answers: Answers, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        served.registry.add("prices", 2, answers=answers)
        served.registry.set_production("prices", 2)
        wait_until(lambda: served.client.get("/models/prices").json()["failed"] is not None)
        time.sleep(0.5)
    model = served.client.get("/models/prices").json()
    assert (model["version"], model["failed"]["version"]) == (1, 2)
    assert str(served.settings.home) not in model["failed"]["reason"]
    assert served.predict(VALUES).json()["version"] == 1
    assert get_checks(served)["model prices"][0] == "degraded"
    assert served.client.get("/health/ready").status_code == 200
    # Once, not at each look.
    assert [record.getMessage().count("version 1 keeps serving") for record in caplog.records] == [1]


def test_version_that_cannot_serve_is_an_alert_until_one_serves(served: Served, own_engine: Engine) -> None:
    served.registry.add("prices", 2, answers="damaged")
    served.registry.set_production("prices", 2)
    wait_until(lambda: find_alert(own_engine) is not None)
    alert = find_alert(own_engine)
    assert alert is not None
    assert (alert.cause, alert.severity, alert.title) == ("version", "warning", "A version cannot serve: 2")
    assert alert.reasons[-1] == "version 1 keeps serving"
    assert "damaged" in alert.reasons[0] or "onnx" in alert.reasons[0].lower()
    assert str(served.settings.home) not in alert.reasons[0]

    served.registry.set_production("prices", 1)
    wait_until(lambda: find_alert(own_engine) is None)
    over = find_alert(own_engine, is_open=False)
    assert over is not None and over.cleared_reason == "version 1 serves"


def test_version_without_another_to_serve_in_its_place_is_critical(
    tmp_path: Path, own_database_url: str, own_engine: Engine, folder_registry: FolderRegistry
) -> None:
    folder_registry.add("prices", 1, answers="damaged")
    folder_registry.set_production("prices", 1)
    with serving(tmp_path, own_database_url, folder_registry):
        wait_until(lambda: find_alert(own_engine) is not None)
    alert = find_alert(own_engine)
    assert alert is not None
    assert (alert.severity, alert.reasons[-1]) == ("critical", "nothing serves it")
    # The process has ended; the next one finds that what failed is not wanted any more.
    folder_registry.set_production("prices", None)
    with serving(tmp_path, own_database_url, folder_registry):
        wait_until(lambda: find_alert(own_engine) is None)


def test_what_cannot_serve_while_the_database_is_away_is_told_of_when_it_is_back(
    own_engine: Engine, database: EmbeddedDatabase
) -> None:
    alerts = VersionAlerts(own_engine)
    alerts.note_failure("prices", 2, "it is damaged.", 1)
    own_engine.dispose()
    database.stop()
    with pytest.raises(OperationalError):
        alerts.store()
    database.start()
    alerts.store()
    alerts.store()
    alert = find_alert(own_engine)
    assert alert is not None
    assert (alert.times, list(alert.reasons)) == (1, ["it is damaged", "version 1 keeps serving"])


def test_version_whose_cached_copy_is_damaged_is_downloaded_again(served: Served) -> None:
    served.registry.add("prices", 2, answers="double")
    served.registry.set_production("prices", 2)
    served.wait_for_version("prices", 2)
    damaged = served.settings.versions_folder / "prices" / "3"
    served.registry.add("prices", 3, answers="double")
    FolderRegistry(served.settings.versions_folder).add("prices", 3, answers="damaged")
    assert (damaged / "model.onnx").exists()
    served.registry.set_production("prices", 3)
    served.wait_for_version("prices", 3)


def test_half_a_download_is_never_used(served: Served) -> None:
    partial = served.settings.versions_folder / "prices" / ".2-half"
    partial.mkdir()
    served.registry.add("prices", 2, answers="double")
    served.registry.set_away("artifacts", True)
    served.registry.set_production("prices", 2)
    wait_until(lambda: get_checks(served)["artifacts"][0] == "degraded")
    assert served.predict(VALUES).json()["version"] == 1
    assert not (served.settings.versions_folder / "prices" / "2").exists()
    served.registry.set_away("artifacts", False)
    served.wait_for_version("prices", 2)
    wait_until(lambda: get_checks(served)["artifacts"][0] == "ok")


def test_pinned_version_serves_whatever_is_in_production(served: Served, own_engine: Engine) -> None:
    served.registry.add("prices", 2, answers="double")
    aim(own_engine, "2")
    served.wait_for_version("prices", 2)
    served.registry.set_production("prices", 1)
    time.sleep(0.3)
    assert served.predict(VALUES).json()["version"] == 2


def test_pinned_version_that_is_missing_is_an_error_and_never_another_version(
    served: Served, own_engine: Engine
) -> None:
    aim(own_engine, "9")
    served.wait_for_version("prices", None)
    response = served.predict(VALUES)
    assert response.status_code == 503
    assert "'9'" in response.json()["detail"]
    aim(own_engine, "Production")
    served.wait_for_version("prices", 1)


def test_latest_is_the_highest_version_that_passed_the_gate(served: Served, own_engine: Engine) -> None:
    for version in (2, 3, 4):
        served.registry.add("prices", version, answers="double")
    with own_engine.begin() as connection:
        for version in (2, 3):
            store_verdict(connection, Verdict("prices", version, 1, "promote", "better", ()), None)
        store_verdict(connection, Verdict("prices", 4, 3, "keep", "a tie", ()), None)
    aim(own_engine, "latest")
    served.wait_for_version("prices", 3)


def test_model_with_nothing_in_production_any_more_is_not_served(served: Served) -> None:
    served.registry.set_production("prices", None)
    served.wait_for_version("prices", None)
    assert served.predict(VALUES).status_code == 503
    served.registry.set_production("prices", 1)
    served.wait_for_version("prices", 1)


def test_tracking_away_keeps_serving_and_is_logged_once(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="serving.outages"):
        served.registry.set_away("tracking", True)
        wait_until(lambda: get_checks(served)["tracking"][0] == "degraded")
        time.sleep(0.5)
        assert served.predict(VALUES).status_code == 200
        assert served.client.get("/health/ready").status_code == 200
        served.registry.set_away("tracking", False)
        wait_until(lambda: get_checks(served)["tracking"][0] == "ok")
    assert next(record.getMessage().split(":")[0] for record in caplog.records).endswith("tracking server is away")
    assert len(caplog.records) == 2


def test_start_with_everything_away_serves_what_served_last(
    tmp_path: Path, database: EmbeddedDatabase, own_database_url: str, folder_registry: FolderRegistry
) -> None:
    folder_registry.add("prices", 1, answers="mean")
    folder_registry.set_production("prices", 1)
    with serving(tmp_path, own_database_url, folder_registry) as served:
        served.wait_for_version("prices", 1)
    for what in ("tracking", "artifacts"):
        folder_registry.set_away(what, True)
    database.stop()
    with serving(tmp_path, own_database_url, folder_registry, models=()) as served:
        wait_until(lambda: served.client.get("/health/ready").status_code == 200)
        assert served.predict(VALUES).json()["predictions"] == [25.0]
        assert served.client.post("/predict", json=VALUES).json()["prediction"] == 25.0
        assert get_checks(served)["database"][0] == "degraded"
        # What is resolved last from the cache does not follow until all is back.
        for what in ("tracking", "artifacts"):
            folder_registry.set_away(what, False)
        database.start()
        folder_registry.add("prices", 2, answers="double")
        folder_registry.set_production("prices", 2)
        served.wait_for_version("prices", 2)


def test_start_with_everything_away_and_nothing_cached_is_not_ready(
    tmp_path: Path, own_database_url: str, folder_registry: FolderRegistry
) -> None:
    folder_registry.set_away("tracking", True)
    with serving(tmp_path, own_database_url, folder_registry) as served:
        wait_until(lambda: "away by the test" in get_checks(served)["following"][1])
        assert served.client.get("/health/ready").status_code == 503
        assert served.client.get("/health/live").status_code == 200


def test_model_that_is_declared_later_is_followed(served: Served, own_database_url: str) -> None:
    declare(own_database_url, "weather")
    served.registry.add("weather", 7, answers="double")
    served.registry.set_production("weather", 7)
    served.wait_for_version("weather", 7)
    assert served.client.post("/weather/predict", json=VALUES).json()["checkpoint_path"] == "models:/weather/7"
