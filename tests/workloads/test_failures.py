"""Workload `failures`: the faults of other implementations of the design, and its sample."""

import csv
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from core.data_errors import RowsRejected
from ingestion.importing import import_file
from tests.workloads.reading import read_columns
from training.kinds import get_kind
from workloads.failures.sample import HEADING, write_sample
from workloads.failures.workload import WORKLOAD

DOCUMENTED = ["KNR", "unique_names", "1_status_10", "2_status_10", "718_status_10", "1_status_13", "2_status_13"]
TARGET = "718_status_13"


def test_columns_are_the_documented_ones_and_the_label_is_no_feature() -> None:
    assert [column.name for column in WORKLOAD.columns] == [*DOCUMENTED, TARGET]
    assert HEADING.split(",") == [*DOCUMENTED, TARGET]
    assert WORKLOAD.target == TARGET
    assert WORKLOAD.features == tuple(DOCUMENTED[1:])


def test_the_documented_line_is_taken_in(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text(f"{HEADING}\n2024.12,3,0.0,12.0,13.0,2.0,0.0,0.0\n", encoding="utf-8")
    assert import_file(engine, WORKLOAD.build_contract(), path, name=path.name, actor="tests").rows_new == 1


@pytest.mark.parametrize("value", ["2", "0.5", "-1", "yes"])
def test_a_label_other_than_0_and_1_is_refused_by_its_column(engine: Engine, tmp_path: Path, value: str) -> None:
    path = tmp_path / "new.csv"
    path.write_text(f"{HEADING}\n2024.12,3,0.0,12.0,13.0,2.0,0.0,{value}\n", encoding="utf-8")
    with pytest.raises(RowsRejected, match=TARGET):
        import_file(engine, WORKLOAD.build_contract(), path, name=path.name, actor="tests")


def test_cars_that_are_held_out_stay_so_when_others_come(tmp_path: Path) -> None:
    contract = WORKLOAD.build_contract()
    found = []
    for rows in (900, 1200):
        path = tmp_path / f"{rows}.csv"
        write_sample(path, rows=rows)
        columns = read_columns(contract, path)
        found.append(set(get_kind(contract).split_columns(contract, columns, WORKLOAD.split).holdout.keys.tolist()))
    known = {f"2024.{number:05d}" for number in range(1, 901)}
    assert found[0] == found[1] & known


def test_sample_is_the_process_of_its_docstring(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write_sample(path, rows=300, seed=11)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    generator = np.random.default_rng(11)
    quality, checks = generator.normal(size=300), 1 + generator.poisson(4.0, 300)
    means = checks[:, None] * [0.5, 0.4, 0.2, 0.12, 0.10] * np.exp(0.5 * quality)[:, None]
    findings = generator.poisson(means)
    z = -3 + 0.9 * quality + 0.5 * findings[:, 2].clip(max=4) + 0.9 * (findings[:, 3:] > 0).all(axis=1)
    failed = generator.random(300) < 1 / (1 + np.exp(-z))
    assert [int(row["unique_names"]) for row in rows] == checks.tolist()
    assert [[float(row[name]) for name in DOCUMENTED[2:]] for row in rows] == findings.tolist()
    assert [float(row[TARGET]) for row in rows] == failed.astype(float).tolist()
    assert len({row["KNR"] for row in rows}) == 300


def test_about_one_car_in_eight_fails(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write_sample(path)
    labels = read_columns(WORKLOAD.build_contract(), path)[TARGET]
    assert 0.09 < labels.mean() < 0.17
