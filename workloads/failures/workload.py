"""Workload `failures`: whether a car fails its last check, from what the checks before found.

One row is one car. Where a file has several rows a car, `KNR` is no key: declare `key=Key()`, and rows are told apart
by their values.
"""

from core.contract import Column, Key, Monitored
from core.policies import DriftPolicy
from workloads.declaration import GatePolicy, Slice, SplitPolicy, Workload
from workloads.parameters import TABULAR

_MOST = 1e6


def _count(name: str, description: str) -> Column:
    return Column(name=name, dtype="float", unit="findings", description=description, minimum=0.0, maximum=_MOST)


FEATURES = ("unique_names", "1_status_10", "2_status_10", "718_status_10", "1_status_13", "2_status_13")

WORKLOAD = Workload(
    name="failures",
    description="Whether a car fails its last check",
    kind="tabular",
    task="binary",
    columns=(
        Column(name="KNR", dtype="text", description="Id of the car"),
        Column(name="unique_names", dtype="integer", description="Different checks", minimum=0, maximum=_MOST),
        _count("1_status_10", "Findings of family 1 with status 10"),
        _count("2_status_10", "Findings of family 2 with status 10"),
        _count("718_status_10", "Findings of family 718 with status 10"),
        _count("1_status_13", "Findings of family 1 with status 13"),
        _count("2_status_13", "Findings of family 2 with status 13"),
        Column(name="718_status_13", dtype="integer", description="1 if the car failed", minimum=0, maximum=1),
    ),
    key=Key(id="KNR"),
    target="718_status_13",
    features=FEATURES,
    model="workloads.tabular_model:build_model",
    sample="workloads.failures.sample:write_sample",
    parameters=TABULAR,
    monitored=tuple(Monitored(name=name, column=name, transform="value") for name in FEATURES),
    slices=(
        Slice("few_checks", "unique_names", maximum=4),
        Slice("many_checks", "unique_names", minimum=5),
        Slice("clean_718", "718_status_10", maximum=0),
        Slice("found_718", "718_status_10", minimum=1),
    ),
    split=SplitPolicy(validation_share=0.15, holdout_share=0.2),
    gate=GatePolicy(metric="log_loss", non_inferiority_margin=0.02, minimum_rows=200),
    drift=DriftPolicy(minimum_rows=100),
)
