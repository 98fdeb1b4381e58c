"""From a prediction over the real service, through the journal, to its outcome and the realised performance."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine, text

from core.contract import Contract
from tests.conftest import find_free_port
from tests.control.running import controlling
from tests.outcomes.predicting import declare
from tests.serving.folder_registry import FolderRegistry
from tests.serving.onnx_models import build_contract, write_version
from tests.serving.running import serving, wait_until

DAYS = 12


def count_predictions(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM predictions WHERE entity IS NOT NULL")).scalar_one())


def test_outcomes_over_the_one_address_show_as_performance(
    tmp_path: Path, migrated_database_url: str, own_engine: Engine
) -> None:
    contract: Contract = build_contract("prices").model_copy(update={"step_s": 86_400.0, "gaps": "allow"})
    declare(own_engine, contract, "mae", baseline_name="persistence")
    (tmp_path / "registry").mkdir()
    registry = FolderRegistry(tmp_path / "registry")
    write_version(registry.folder / "prices" / "1", contract, "mean")
    registry.set_production("prices", 1)
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    days = [today - timedelta(days=DAYS + 4 - day) for day in range(DAYS + 4)]
    closes = [100.0 + day for day in range(DAYS + 4)]
    with (
        controlling(tmp_path / "control", migrated_database_url, f"http://127.0.0.1:{find_free_port()}") as control,
        serving(tmp_path, migrated_database_url, registry, models=(), control_url=control.address) as served,
    ):
        served.wait_for_version("prices", 1)
        answers = []
        for last in range(3, 3 + DAYS):
            window = [{"Date": days[at].date().isoformat(), "Close": closes[at]} for at in range(last - 3, last + 1)]
            answers.append(served.predict({"rows": window}).json())
        wait_until(lambda: count_predictions(own_engine) == DAYS)
        # One by its id, the others as the series' own rows, which need no further feed.
        first = {"prediction_id": answers[0]["prediction_ids"][0], "Close": closes[4] + 1.0}
        sent = served.client.post("/models/prices/outcomes", json=first)
        assert (sent.status_code, sent.json()["outcomes_joined"]) == (201, 1)
        rows = [{"Date": days[at].date().isoformat(), "Close": closes[at]} for at in range(5, DAYS + 4)]
        assert served.client.post("/models/prices/observations", json=rows).status_code == 201
        found = served.client.get("/models/prices/performance", params={"by": "month", "days": 60}).json()
    assert found["outcomes"] == {"joined": DAYS, "waiting": 0, "corrected": 0}
    (version,) = found["versions"]
    assert (version["version"], version["metric"], version["baseline_name"]) == (1, "mae", "persistence")
    periods = version["periods"]
    assert sum(one["rows"] for one in periods) == DAYS
    # The mean of four days in a row is 2.5 below the next; the first outcome came out one higher.
    total = sum(one["rows"] * one["error"] for one in periods)
    assert total == pytest.approx(2.5 * DAYS + 1.0)
    assert sum(one["rows"] * one["baseline_error"] for one in periods) == pytest.approx(1.0 * DAYS + 1.0)


def test_refusals_name_what_is_wrong(tmp_path: Path, migrated_database_url: str, own_engine: Engine) -> None:
    contract = build_contract("prices").model_copy(update={"step_s": 86_400.0})
    declare(own_engine, contract, "mae")
    path = "/models/prices/outcomes"
    with controlling(tmp_path, migrated_database_url, f"http://127.0.0.1:{find_free_port()}") as control:

        def post(**fields: object) -> httpx.Response:
            return control.client.post(path, **fields)  # type: ignore[arg-type]

        none = post(json=[{"Close": 1.0}])
        assert (none.status_code, none.json()["errors"][0]["where"]) == (422, "line 1, column Date")
        empty = post(json=[])
        assert empty.status_code == 422
        some = post(
            content=b'{"Date": "2026-01-01", "Close": 1.0}\n{"Date": "x", "Close": 1}\nnot json\n',
            headers={"Content-Type": "application/x-ndjson"},
        )
        assert (some.status_code, some.json()["outcomes_waiting"]) == (200, 1)
        assert [fault["line"] for fault in some.json()["rejected"]] == [2, 3]
        file = post(files={"file": ("o.csv", b"Date,Close\n2026-01-02,7\n")})
        assert (file.status_code, file.json()["outcomes_new"]) == (201, 1)
        assert control.client.post("/models/none/outcomes", json={}).status_code == 404
        assert control.client.get("/models/prices/performance", params={"by": "year"}).status_code == 422
        listed = control.client.get("/models/prices/rejected").json()["rows"]
        assert len(listed) >= 3
