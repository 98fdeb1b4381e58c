"""Workload `telemetry`: its real history, and a network that does better than the last reading."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import Engine, text

from ingestion.importing import import_file
from ingestion.store import load_observations
from tests.conftest import SHARED_DATA
from tests.workloads.reading import read_columns
from training.fit import fit_model, predict
from training.parts import Parts
from training.sequence import PERSISTENCE, split_columns
from workloads.telemetry.sample import write_sample
from workloads.telemetry.workload import WORKLOAD

CONTRACT = WORKLOAD.build_contract()


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    path = tmp_path / "telemetry.csv"
    write_sample(path)
    return split_columns(CONTRACT, read_columns(CONTRACT, path), WORKLOAD.split)


@pytest.fixture
def history() -> Path:
    path = SHARED_DATA / "machine_temperature.csv"
    if not path.is_file():
        pytest.skip(f"no real data at {path}")
    return path


def test_untrained_model_predicts_the_last_reading(parts: Parts) -> None:
    model = WORKLOAD.load_function("model")(CONTRACT, WORKLOAD.resolve_parameters(), parts.train.inputs)
    answers = model.predict_on_batch(parts.holdout.inputs)
    np.testing.assert_array_equal(answers, parts.holdout.naive[PERSISTENCE].astype(np.float32))


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
def test_model_is_better_than_the_last_reading_on_the_sample(parts: Parts) -> None:
    parameters = WORKLOAD.resolve_parameters({"max_epochs": 6})
    fitted = fit_model(WORKLOAD, CONTRACT, parameters, parts.train, parts.validation)

    error = np.abs(predict(fitted.model, parts.holdout.inputs) - parts.holdout.targets).mean()
    persistence = np.abs(parts.holdout.naive[PERSISTENCE] - parts.holdout.targets).mean()

    assert error < 0.95 * persistence


def test_real_history_comes_in_and_its_clock_that_steps_back_is_reported(engine: Engine, history: Path) -> None:
    result = import_file(engine, CONTRACT, history, name=history.name, actor="test")
    again = import_file(engine, CONTRACT, history, name=history.name, actor="test")

    frame = pd.read_csv(history, parse_dates=["timestamp"], float_precision="round_trip")
    expected = frame.drop_duplicates("timestamp", keep="first").sort_values("timestamp")
    repeated = np.flatnonzero(frame.duplicated("timestamp", keep="first")) + 2
    with engine.connect() as connection:
        stored = load_observations(connection, CONTRACT)
        lines = connection.execute(
            text("SELECT line FROM rejected_rows WHERE source_id = :id ORDER BY line"), {"id": result.source_id}
        )
        assert list(lines.scalars()) == list(repeated)
    assert (result.rows_new, result.rows_rejected, result.gaps) == (len(expected), len(repeated), 0)
    assert (again.rows_new, again.rows_changed, again.rows_unchanged) == (0, 0, len(expected))
    np.testing.assert_array_equal(stored["temperature"].to_numpy(), expected["value"].to_numpy())
    assert (stored["time"].dt.tz_localize(None).to_numpy() == expected["timestamp"].to_numpy()).all()
    assert set(stored["machine"]) == {"machine_1"}
