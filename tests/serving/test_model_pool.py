"""Which versions stay in memory and in the cache, when there is not room for all."""

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine

from core.targets import set_target
from core.verdicts import Verdict, store_verdict
from serving.loading import LoadedVersion, load_version
from serving.model_pool import ModelPool
from tests.serving.folder_registry import FolderRegistry
from tests.serving.onnx_models import build_contract, write_version
from tests.serving.running import Served, serving, wait_until

VALUES = {"values": [10.0, 20.0, 30.0, 40.0]}


@pytest.fixture
def loaded(tmp_path: Path) -> list[LoadedVersion]:
    """Version 1 of five models."""
    versions = []
    for number in range(5):
        folder = tmp_path / str(number)
        write_version(folder, build_contract(f"model_{number}"), "mean")
        versions.append(load_version(folder, f"model_{number}", 1))
    return versions


def test_version_that_was_used_longest_ago_is_unloaded_first(loaded: list[LoadedVersion]) -> None:
    pool = ModelPool(most_loaded=3, most_bytes=2**30)
    for version in loaded[:3]:
        pool.swap(version)
    pool.find_serving("model_0")
    pool.swap(loaded[3])
    assert pool.count_loaded() == 3
    assert pool.find_serving("model_1") is None
    assert [pool.find_serving(f"model_{number}") for number in (0, 2, 3)] == [loaded[0], loaded[2], loaded[3]]
    # It still is what serves its model, and is back in its place when it is loaded again.
    assert pool.get_slot("model_1").version == 1
    pool.keep_asked_for(loaded[1])
    assert pool.find_serving("model_1") is loaded[1]
    assert pool.count_loaded() == 3


def test_versions_with_larger_files_than_fit_are_unloaded_but_for_the_newest(loaded: list[LoadedVersion]) -> None:
    pool = ModelPool(most_loaded=100, most_bytes=2 * loaded[0].model_bytes + 100)
    for version in loaded[:3]:
        pool.swap(version)
    assert pool.count_loaded() == 2
    assert pool.find_serving("model_0") is None
    small = ModelPool(most_loaded=100, most_bytes=1)
    small.swap(loaded[3])
    assert small.find_serving("model_3") is loaded[3]


def test_more_models_than_fit_are_all_answered(
    tmp_path: Path, own_database_url: str, folder_registry: FolderRegistry
) -> None:
    models = tuple(f"model_{number}" for number in range(6))
    for model in models:
        folder_registry.add(model, 1, answers="mean")
        folder_registry.set_production(model, 1)
    with serving(tmp_path, own_database_url, folder_registry, models=models, max_loaded_versions=2) as served:
        for model in models:
            served.wait_for_version(model, 1)
        # Loading again needs nothing but the cache.
        folder_registry.set_away("tracking", is_away=True)
        for _ in range(2):
            for model in models:
                assert served.predict(VALUES, model).json()["predictions"] == [25.0]


def test_version_is_asked_for_by_stage_and_by_target(served: Served, own_engine: Engine) -> None:
    served.registry.add("prices", 2, answers="double")
    with own_engine.begin() as connection:
        store_verdict(connection, Verdict("prices", 2, 1, "promote", "test", ()), None)
        set_target(connection, "prices", "1", "test")
    assert served.predict(VALUES | {"version": "latest"}).json()["version"] == 2
    assert served.predict(VALUES | {"version": "Production"}).json()["version"] == 1
    served.registry.set_production("prices", 2)
    wait_until(lambda: served.predict(VALUES | {"version": "Production"}).json()["version"] == 2)
    assert served.predict(VALUES).json()["version"] == 1
    missing = served.predict(VALUES | {"version": "Staging"})
    assert (missing.status_code, missing.json()["type"]) == (404, "/problems/model-version-not-found")


def test_cache_that_is_full_keeps_what_serves_and_what_a_rollback_needs(
    tmp_path: Path, own_database_url: str, folder_registry: FolderRegistry
) -> None:
    for version in (1, 2, 3, 4):
        folder_registry.add("prices", version, answers="mean")
    folder_registry.set_production("prices", 1)
    with serving(tmp_path, own_database_url, folder_registry, version_cache_max_bytes=1) as served:
        for version in (1, 2, 3, 4):
            folder_registry.set_production("prices", version)
            served.wait_for_version("prices", version)
        kept = sorted(path.name for path in (served.settings.versions_folder / "prices").iterdir())
        # The one before the last is kept too, because it still served while the last was downloaded.
        assert kept == ["2", "3", "4"]
        # What was removed is downloaded again.
        assert served.predict(VALUES | {"version": 1}).json()["version"] == 1


def test_metrics_tell_requests_errors_versions_and_the_journal(served: Served) -> None:
    for _ in range(3):
        served.predict(VALUES)
    served.predict({"values": [1.0]})
    served.predict(VALUES, model="unknown")
    answer = served.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert samples["http_requests_total", "200", "prices"] == 3
    assert samples["http_requests_total", "422", "prices"] == 1
    assert samples["http_request_errors_total", "prices", "request-rejected"] == 1
    # Those who waited for the start asked for a model that was not known yet.
    assert samples["http_request_errors_total", "", "model-not-found"] >= 1
    assert samples["http_request_duration_seconds_count", "prices"] == 4
    assert samples["http_requests_in_progress",] == 0
    assert samples["millrace_model_version_info", "1", "prices"] == 1
    assert samples["millrace_version_load_seconds_count", "prices"] == 1
    assert samples["millrace_version_swap_seconds_count", "prices"] == 1
    assert samples["millrace_journal_backlog_bytes",] > 0
    served.registry.add("prices", 2, answers="double")
    served.registry.set_production("prices", 2)
    served.wait_for_version("prices", 2)
    text = served.client.get("/metrics").text
    assert 'millrace_model_version_info{model="prices",version="1"} 0.0' in text
    assert 'millrace_model_version_info{model="prices",version="2"} 1.0' in text
    served.registry.set_production("prices", None)
    served.wait_for_version("prices", None)
    assert 'millrace_model_version_info{model="prices",version="2"} 0.0' in served.client.get("/metrics").text
