"""Workload `prices`: the next daily close of one instrument, from its last closes."""

from core.contract import Column, Key, Monitored, Route
from core.policies import DriftPolicy
from workloads.declaration import GatePolicy, Parameter, PulledSource, SplitPolicy, Workload

DAY_S = 86_400.0
_LARGEST_PRICE = 1e9

WORKLOAD = Workload(
    name="prices",
    description="Next daily close of a price series by LSTM",
    kind="sequence",
    columns=(
        Column(name="Date", dtype="time", description="Day of the close, UTC", aliases=("Datetime", "Timestamp")),
        Column(name="Close", dtype="float", unit="USD", minimum=1e-6, maximum=_LARGEST_PRICE),
        Column(name="Open", dtype="float", unit="USD", minimum=1e-6, maximum=_LARGEST_PRICE, is_nullable=True),
        Column(name="High", dtype="float", unit="USD", minimum=1e-6, maximum=_LARGEST_PRICE, is_nullable=True),
        Column(name="Low", dtype="float", unit="USD", minimum=1e-6, maximum=_LARGEST_PRICE, is_nullable=True),
        Column(name="Volume", dtype="float", unit="USD", minimum=0.0, is_nullable=True),
    ),
    key=Key(time="Date"),
    target="Close",
    features=("Close",),
    steps="sequence_length",
    step_s=DAY_S,
    gaps="refuse",
    model="workloads.prices.model:build_model",
    sample="workloads.prices.sample:write_sample",
    parameters={
        "sequence_length": Parameter(30, 8, 256, "closes in one window", search=(10, 60)),
        "hidden_size": Parameter(32, 4, 256, "units of each LSTM layer", search=(8, 64)),
        "num_layers": Parameter(1, 1, 4, "LSTM layers", search=(1, 2)),
        "dropout": Parameter(0.1, 0.0, 0.6, "share of units dropped while training", search=(0.0, 0.4)),
        "learning_rate": Parameter(5e-4, 1e-6, 1e-1, "step size of Adam", search=(1e-4, 5e-3)),
        "batch_size": Parameter(64, 8, 1024, "windows in one step", search=(32, 256)),
        "max_epochs": Parameter(40, 1, 1000, "most passes over the training part", search=(10, 60)),
        "patience": Parameter(6, 1, 100, "epochs without a better validation loss before stopping", search=(3, 10)),
        "seed": Parameter(7, 0, 2**31 - 1, "seed of weights and order"),
    },
    # Levels of a price series always drift; its daily change does not.
    monitored=(Monitored(name="last_log_return", column="Close", transform="last_log_return"),),
    routes=(
        Route(
            path="/predict",
            codec="values",
            answer={
                "ok": True,
                "prediction": "$prediction",
                "checkpoint_path": "$model_uri",
                "sequence_length": "$steps",
                "symbol": "BTC-USD",
                "feature": "Close",
            },
        ),
    ),
    # A day's close stands when the day is over, in UTC.
    pulled=(PulledSource(name="yahoo", kind="yfinance", address="BTC-USD", cron="20 0 * * *"),),
    split=SplitPolicy(validation_share=0.1, holdout_share=0.1),
    gate=GatePolicy(metric="mae", baseline_margin=0.02, non_inferiority_margin=0.02, minimum_rows=100),
    drift=DriftPolicy(minimum_rows=100),
)
