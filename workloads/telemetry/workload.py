"""Workload `telemetry`: the next reading of a machine's temperature sensor, from its last ones."""

from core.contract import Column, Key, Monitored
from core.policies import DriftPolicy
from workloads.declaration import GatePolicy, Parameter, SplitPolicy, Subscription, Workload

STEP_S = 300.0

WORKLOAD = Workload(
    name="telemetry",
    description="Next reading of a machine's temperature sensor by a convolutional network",
    kind="sequence",
    columns=(
        Column(
            name="machine",
            dtype="text",
            description="Which machine; a history of one machine may leave the column out",
            aliases=("machine_id", "device"),
            default="machine_1",
        ),
        Column(name="time", dtype="time", description="When it was read, UTC", aliases=("timestamp", "at")),
        Column(
            name="temperature",
            dtype="float",
            unit="degrees",
            description="As the sensor gives it",
            minimum=-100.0,
            maximum=500.0,
            aliases=("value",),
        ),
    ),
    key=Key(entity="machine", time="time"),
    target="temperature",
    features=("temperature",),
    steps="sequence_length",
    step_s=STEP_S,
    gaps="allow",
    # A sensor whose clock is set back reads some minutes twice; the rest of its history is no worse for that.
    repeats="keep_first",
    subscriptions=(
        Subscription("telemetry/{machine}", payload="object"),
        Subscription("telemetry/{machine}/reading", payload="array", columns=("time", "temperature")),
        Subscription("telemetry/{machine}/temperature", payload="value", columns=("temperature",), time_from="arrival"),
    ),
    model="workloads.telemetry.model:build_model",
    sample="workloads.telemetry.sample:write_sample",
    parameters={
        "sequence_length": Parameter(48, 12, 288, "readings in one window", search=(24, 96)),
        "filters": Parameter(16, 4, 128, "filters of each convolution", search=(8, 32)),
        "kernel_size": Parameter(5, 2, 12, "readings that one filter sees", search=(3, 8)),
        "learning_rate": Parameter(1e-3, 1e-6, 1e-1, "step size of Adam", search=(3e-4, 5e-3)),
        "batch_size": Parameter(128, 8, 2048, "windows in one step", search=(64, 256)),
        "max_epochs": Parameter(20, 1, 1000, "most passes over the training part", search=(10, 40)),
        "patience": Parameter(4, 1, 100, "epochs without a better validation loss before stopping", search=(3, 8)),
        "seed": Parameter(7, 0, 2**31 - 1, "seed of weights and order"),
    },
    monitored=(Monitored(name="last_temperature", column="temperature", transform="last_value", unit="degrees"),),
    split=SplitPolicy(validation_share=0.1, holdout_share=0.2),
    gate=GatePolicy(metric="mae", non_inferiority_margin=0.02, minimum_rows=200),
    # A machine's fault lasts a day or two, which a week would average away. And a machine that runs is asked about at
    # each of its readings, every five minutes: a day of silence is no pause.
    drift=DriftPolicy(minimum_rows=200, window_h=48.0, served_within_h=24.0),
)
