"""What MLflow's own loaders answer: a program of its own, as a user of MLflow writes it; its last line is JSON."""

import json
import sys

import mlflow
import numpy as np


def main() -> None:
    """Answer for the window of numbers given as the one argument."""
    windows = np.asarray(json.loads(sys.argv[1]), dtype=np.float32)[None, :, None]
    keras_model = mlflow.keras.load_model("models:/prices/Production")
    answers = {
        "keras": float(np.asarray(keras_model(windows))[0, 0]),
        "pyfunc": float(np.asarray(mlflow.pyfunc.load_model("models:/prices/Production").predict(windows))[0, 0]),
    }
    # Keras has printed its progress there.
    sys.stdout.write(f"\n{json.dumps(answers)}\n")


if __name__ == "__main__":
    main()
