"""Parameters of the models that workloads start from; apart from them, because a model's module loads Keras."""

from collections.abc import Mapping

from workloads.declaration import Parameter

TABULAR: Mapping[str, Parameter] = {
    "hidden_size": Parameter(32, 2, 1024, "units of each hidden layer", search=(8, 128)),
    "num_layers": Parameter(2, 1, 6, "hidden layers", search=(1, 3)),
    "dropout": Parameter(0.0, 0.0, 0.6, "share of units dropped while training", search=(0.0, 0.4)),
    "learning_rate": Parameter(3e-3, 1e-6, 1e-1, "step size of Adam", search=(5e-4, 1e-2)),
    "batch_size": Parameter(64, 8, 4096, "rows in one step", search=(32, 256)),
    "max_epochs": Parameter(80, 1, 1000, "most passes over the training part", search=(20, 100)),
    "patience": Parameter(10, 1, 100, "epochs without a better validation loss before stopping", search=(5, 15)),
    "seed": Parameter(7, 0, 2**31 - 1, "seed of weights and order"),
}
"""Those of `workloads.tabular_model`, with bounds and search ranges for tables of some thousand rows."""

SEQUENCE: Mapping[str, Parameter] = {
    "sequence_length": Parameter(24, 2, 512, "rows in one window", search=(8, 64)),
    "hidden_size": Parameter(32, 4, 256, "units of each LSTM layer", search=(8, 64)),
    "num_layers": Parameter(1, 1, 4, "LSTM layers", search=(1, 2)),
    "dropout": Parameter(0.0, 0.0, 0.6, "share of units dropped while training", search=(0.0, 0.4)),
    "learning_rate": Parameter(2e-3, 1e-6, 1e-1, "step size of Adam", search=(2e-4, 1e-2)),
    "batch_size": Parameter(64, 8, 1024, "windows in one step", search=(32, 256)),
    "max_epochs": Parameter(30, 1, 1000, "most passes over the training part", search=(10, 60)),
    "patience": Parameter(5, 1, 100, "epochs without a better validation loss before stopping", search=(3, 10)),
    "seed": Parameter(7, 0, 2**31 - 1, "seed of weights and order"),
}
"""Those of `workloads.sequence_model`, with bounds and search ranges for series of some thousand rows."""

RANKING: Mapping[str, Parameter] = {
    "history": Parameter(256, 8, 1024, "items of a user that the model looks at, the latest", search=(64, 512)),
    "factors": Parameter(128, 2, 512, "numbers that stand for an item", search=(32, 256)),
    "damping": Parameter(
        0.2, 0.0, 1.0, "power of an item's popularity that its errors are divided by", search=(0.1, 0.4)
    ),
    "other_weight": Parameter(0.3, 0.0, 1.0, "weight of an item that the user has and did not like", search=(0.0, 0.5)),
    "dropout": Parameter(0.3, 0.0, 0.9, "share of a history dropped while training", search=(0.1, 0.6)),
    "learning_rate": Parameter(1e-4, 1e-7, 1e-1, "step size of Adam", search=(1e-5, 1e-3)),
    "batch_size": Parameter(256, 8, 4096, "users in one step", search=(64, 512)),
    "max_epochs": Parameter(4, 1, 200, "most passes over the training part", search=(2, 10)),
    "patience": Parameter(2, 1, 50, "epochs without a better validation loss before stopping", search=(1, 4)),
    "seed": Parameter(7, 0, 2**31 - 1, "seed of weights and order"),
}
"""Those of `workloads.ranking_model`, with bounds and search ranges for some thousand users."""
