"""Declarations: what `millrace validate` finds before anything runs, in terms of the declaration."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import workloads
from core.errors import DeclarationRejected, ParameterRejected
from workloads.catalogue import get_workload, list_names
from workloads.declaration import GatePolicy, Parameter, Slice, SplitPolicy
from workloads.man_hours.workload import WORKLOAD


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model": "workloads.nowhere:build_model"}, "model='workloads.nowhere:build_model' names no module"),
        ({"model": "workloads.man_hours.sample:no"}, "names no function"),
        ({"gate": GatePolicy(metric="log_loss")}, "gate.metric='log_loss' cannot decide a regression; allowed are mae"),
        ({"split": SplitPolicy(0.6, 0.5)}, "split has the shares"),
        ({"steps": "window"}, "steps='window' is none of the parameters"),
        ({"parameters": {}}, "parameter 'max_epochs' is missing"),
        (
            {"parameters": {**WORKLOAD.parameters, "dropout": Parameter(0.9, 0.0, 0.5, "share")}},
            "parameter 'dropout' has a default outside its bounds",
        ),
        (
            {"slices": (Slice("s", "date", minimum=1),)},
            "slice 's' is of 'date', which is neither a feature of every variant nor the entity",
        ),
        (
            {"slices": (Slice("s", "aircraft", minimum=1),)},
            "slice 's': a text or the entity takes values, a number takes bounds",
        ),
        (
            {"slices": (Slice("s", "cycles", values=("1",)),)},
            "slice 's': a text or the entity takes values, a number takes bounds",
        ),
        (
            {"slices": (Slice("s", "cycles", minimum=1),), "variants": {"few": ("age_fleet",)}},
            "slice 's' is of 'cycles', which is neither a feature of every variant nor the entity",
        ),
        ({"gate": GatePolicy(metric="rmse", confidence=95)}, "gate.confidence=95 is not between 0 and 1"),
        ({"gate": GatePolicy(metric="rmse", baseline_margin=-0.1)}, "gate needs margins from 0"),
        ({"slices": (Slice("s", "cycles"),)}, "slice 's' needs either values or bounds"),
        ({"variants": {"leaky": (*WORKLOAD.features, "man_hours")}}, "the target 'man_hours' is among the features"),
    ],
)
def test_declaration_that_does_not_hold_together_is_refused_by_what_is_wrong(
    changed: dict[str, object], said: str
) -> None:
    with pytest.raises(DeclarationRejected, match=said):
        replace(WORKLOAD, **changed).check()  # type: ignore[arg-type]  # the fields of a workload


def test_ranking_is_decided_by_its_own_metric_alone() -> None:
    books = get_workload("books")
    with pytest.raises(DeclarationRejected, match="gate.metric='mae' cannot decide a ranking; allowed are ndcg_loss"):
        replace(books, gate=GatePolicy(metric="mae")).check()


def test_variant_that_is_not_declared_is_refused_by_name() -> None:
    with pytest.raises(ParameterRejected, match="3_features.*known are 5_features, 4_features"):
        WORKLOAD.build_contract(variant="3_features")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of workloads beside the catalogue's own."""
    monkeypatch.setattr(workloads, "__path__", [*workloads.__path__, str(tmp_path)])
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("workloads.broken")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("WORKLOAD = ", "workload.py cannot be read: invalid syntax"),
        ("from core.contract import Colum", "workload.py cannot be read: cannot import name 'Colum'"),
        ("import core.policies\ncore.policies.Drift", "workload.py cannot be read: module 'core.policies' has no"),
        ("WORKLOAD = 3", "WORKLOAD must be a Workload named 'broken'"),
        (
            "from core.contract import Column\nColumn(name='a', dtype='double')",
            "Column: dtype='double': Input should be",
        ),
    ],
)
def test_broken_workload_is_refused_by_name_and_keeps_no_other_from_working(
    folder: Path, source: str, said: str
) -> None:
    (folder / "broken").mkdir()
    (folder / "broken" / "__init__.py").touch()
    (folder / "broken" / "workload.py").write_text(source, encoding="utf-8")
    assert "broken" in list_names()
    with pytest.raises(DeclarationRejected, match="'broken' is not declared rightly: " + said):
        get_workload("broken")
    assert get_workload("prices").name == "prices"
