"""A running platform is backed up, everything it has is lost, and the backup is brought back on an empty machine."""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.client import BaseClient

from tests.conftest import make_open_folder
from tests.journeys.conftest import BUCKET
from tests.journeys.hammering import hammering
from tests.journeys.running import MODEL, Platform, wait_for

logger = logging.getLogger(__name__)

_COUNTED = ("observations_prices", "transitions", "trainings", "verdicts", "snapshots", "sources", "version_names")


@pytest.fixture
def machine() -> Iterator[Platform]:
    """An empty machine: another home, a folder instead of S3, and none of the old one's keys."""
    folder = make_open_folder()
    empty = Platform(folder, {"MILLRACE_SAMPLE_DATA": "false", "AUTO_TRAIN_ON_STARTUP": "false"})
    try:
        yield empty
    finally:
        empty.close()
        shutil.rmtree(folder, ignore_errors=True)


def _count(platform: Platform) -> dict[str, int]:
    return {name: platform.query(f"SELECT count(*) FROM {name}")[0][0] for name in _COUNTED}  # noqa: S608


def _describe_registry(platform: Platform) -> list[tuple[Any, ...]]:
    client = platform.build_mlflow_client()
    aliases = dict(client.get_registered_model(MODEL).aliases)
    versions = client.search_model_versions(f"name='{MODEL}'")
    return [(one.version, one.current_stage, one.run_id, one.source, aliases) for one in versions]


def test_platform_that_lost_everything_goes_on_from_its_backup(
    platform: Platform, machine: Platform, s3: BaseClient, window: list[float], tmp_path: Path
) -> None:
    before = platform.predict(window)
    path = tmp_path / "backups" / "b.zip"
    with hammering(platform, window) as hammer:
        wait_for(lambda: len(hammer.prediction_ids) > 50, 60, "predictions are made")
        answered = set(hammer.prediction_ids)
        written = platform.run_json("backup", str(path))
    counts, registry = _count(platform), _describe_registry(platform)
    stored = {one["Key"]: one["Size"] for one in s3.list_objects_v2(Bucket=BUCKET)["Contents"]}

    refused = platform.run("restore", str(path))
    assert (refused.returncode, "needs the platform stopped" in refused.stderr) == (4, True)
    assert written["artifacts"] == len(stored)
    assert json.loads(platform.run("backup", str(path), "--verify", "--json").stdout)["bytes"] == written["bytes"]

    restored = machine.run("restore", str(path), **machine.environment)
    assert restored.returncode == 0, restored.stderr
    for key, size in stored.items():
        content = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        assert len(content) == size
        assert (machine.folder / "mlruns" / key.removeprefix("artifacts/")).read_bytes() == content

    machine.start()
    logger.info("start after the restore: %.0f s", machine.wait_until_settled())
    body = {"values": window}
    wait_for(lambda: machine.post(f"/models/{MODEL}/predict", body).is_success, 120, "the restored version serves")
    after = machine.predict(window)

    assert (after["version"], after["predictions"]) == (before["version"], before["predictions"])
    assert _count(machine) == counts
    assert _describe_registry(machine) == registry
    wait_for(lambda: answered <= _load_ids(machine), 60, "what was answered before the backup is stored")
    wait_for(lambda: _is_counted_once(machine), 60, "each stored prediction is counted, and once")


def _is_counted_once(platform: Platform) -> bool:
    query = (
        "SELECT (SELECT count(*) FROM predictions), (SELECT count(DISTINCT id) FROM predictions),"
        " (SELECT sum(predictions) + sum(refusals) FROM request_counts)"
    )
    total, distinct, counted = platform.query(query)[0]
    return bool(total == distinct == counted)


def _load_ids(platform: Platform) -> set[str]:
    return {str(row[0]) for row in platform.query("SELECT id FROM predictions WHERE NOT is_refusal")}
