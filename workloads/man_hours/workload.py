"""Workload `man_hours`: the man-hours that an aircraft's maintenance takes in a week."""

from core.contract import Column, Key, Monitored, Route
from core.policies import DriftPolicy
from workloads.declaration import GatePolicy, Slice, SplitPolicy, Workload
from workloads.parameters import TABULAR

WEEK_S = 7 * 86_400.0
_FOUR = ("sum_daily_hours", "age_fleet", "cycles", "sum_monthly_utilisation")
_FIVE = (*_FOUR, "aircraft")

WORKLOAD = Workload(
    name="man_hours",
    description="Maintenance man-hours of an aircraft's week",
    kind="tabular",
    task="regression",
    columns=(
        Column(name="date", dtype="time", description="First day of the week, UTC"),
        Column(name="aircraft", dtype="text", description="Registration"),
        Column(name="sum_daily_hours", dtype="float", unit="h", description="Flown this week", minimum=0, maximum=168),
        Column(name="age_fleet", dtype="float", unit="years", description="Age", minimum=0, maximum=80),
        Column(name="cycles", dtype="float", description="Landings this week", minimum=0, maximum=500),
        Column(
            name="sum_monthly_utilisation",
            dtype="float",
            unit="h",
            description="Flown in the four weeks that end with this one",
            minimum=0,
            maximum=4 * 168,
        ),
        Column(name="man_hours", dtype="float", unit="h", description="Man-hours this week", minimum=0, maximum=1e5),
    ),
    key=Key(entity="aircraft", time="date"),
    target="man_hours",
    features=_FIVE,
    variants={"5_features": _FIVE, "4_features": _FOUR},
    step_s=WEEK_S,
    gaps="allow",
    model="workloads.tabular_model:build_model",
    sample="workloads.man_hours.sample:write_sample",
    parameters=TABULAR,
    monitored=tuple(
        Monitored(name=name, column=name, transform="value")
        for name in ("sum_daily_hours", "cycles", "sum_monthly_utilisation")
    ),
    routes=(
        Route(
            path="/api/info",
            method="GET",
            answer={
                "variant": "$variant",
                "features": "$features_used",
                "model_version": "$version_name",
                "description": "$description",
            },
        ),
        Route(path="/api/predict", codec="row", answer={"HH": "$prediction", "features_used": "$features_used"}),
    ),
    slices=(
        Slice("young", "age_fleet", maximum=10),
        Slice("old", "age_fleet", minimum=10),
        Slice("busy_month", "sum_monthly_utilisation", minimum=200),
    ),
    split=SplitPolicy(validation_share=0.15, holdout_share=0.2),
    gate=GatePolicy(metric="rmse", non_inferiority_margin=0.02, minimum_rows=50),
    drift=DriftPolicy(minimum_rows=50),
)
