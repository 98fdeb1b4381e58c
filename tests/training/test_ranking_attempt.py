"""A ranking through whole trainings: each version keeps its own files, and versions are compared user by user."""

import hashlib
import uuid
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from core.connections import Connections
from core.model_directory import ModelDirectory
from core.trainings import request_training, start_attempt
from ingestion.importing import import_file
from ingestion.snapshots import create_snapshot
from tests.training.interactions import read_interactions
from tests.training.preparing import Attempted, attempt
from training.ranking import POPULARITY
from training.rescoring import rescore_version
from workloads.catalogue import get_workload
from workloads.declaration import Workload

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def bring(connections: Connections, workload: Workload, path: Path) -> str:
    """The digest of a snapshot with the rows of the file beside those that are stored."""
    import_file(connections.engine, workload.build_contract(), path, name=path.name, actor="tests")
    with TemporaryDirectory() as folder:
        contract = workload.build_contract()
        return create_snapshot(connections.engine, contract, connections.tracking, Path(folder)).digest


def train(connections: Connections, workload: Workload, digest: str, **parameters: object) -> Attempted:
    with connections.engine.begin() as connection:
        training, _ = request_training(
            connection,
            workload.name,
            cause="hand",
            actor="tests",
            parameters={"max_epochs": 1, "history": 64, **parameters},
            snapshot_digest=digest,
            is_enqueued=False,
        )
        training = start_attempt(connection, training.id)
    return attempt(connections, workload, training)


def digest_files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_later_version_with_other_items_is_compared_and_overwrites_nothing(
    connections: Connections, tmp_path: Path
) -> None:
    workload = replace(get_workload("books"), name=f"books_{uuid.uuid4().hex[:8]}")
    path = tmp_path / "books.csv"
    workload.load_function("sample")(path, users=250)
    # With two factors it knows little more than what is popular.
    first = train(connections, workload, bring(connections, workload, path), factors=2, damping=0.0)
    assert first.verdict.outcome == "promote"
    check = next(check for check in first.verdict.checks if check.name == "baseline")
    assert POPULARITY in check.reason
    kept = tmp_path / "first"
    kept.mkdir()
    connections.registry.download(workload.name, first.verdict.version, kept)
    before = digest_files(kept)

    later = tmp_path / "later.csv"
    later.write_text("user_id,book_id,rating\n" + "".join(f"{user},9001,5\n" for user in range(1, 120)))
    second = train(connections, workload, bring(connections, workload, later))
    assert (second.verdict.outcome, second.verdict.champion_version) == ("promote", first.verdict.version)
    rows = next(check for check in second.verdict.checks if check.name == "rows")
    assert rows.value is not None
    assert rows.value > 200

    again, new = tmp_path / "again", tmp_path / "new"
    for folder, version in ((again, first.verdict.version), (new, second.verdict.version)):
        folder.mkdir()
        connections.registry.download(workload.name, version, folder)
    assert digest_files(again) == before
    items = [ModelDirectory.open(folder).contract["vocabularies"]["book_id"] for folder in (again, new)]  # type: ignore[index]
    assert "9001" not in items[0]
    assert "9001" in items[1]

    rescore = rescore_version(connections, workload.name, second.verdict.version, read_interactions(path))
    assert rescore.rows > 200
    assert rescore.model["ndcg_at_10"] > rescore.baselines[POPULARITY]["ndcg_at_10"]
