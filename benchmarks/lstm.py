"""The model that the benchmarks serve: LSTM(32) on 24 steps of 4 features, as a Keras file and as ONNX."""

import sys
from pathlib import Path


def main() -> None:
    """`python -m benchmarks.lstm KERAS_FILE ONNX_FILE`"""
    import keras

    from benchmarks.platform import FEATURES, STEPS
    from training.export import export_onnx

    keras.utils.set_random_seed(1)
    inputs = keras.Input((STEPS, FEATURES), dtype="float32")
    hidden = keras.layers.LSTM(32)(keras.layers.Rescaling(1 / 20.0)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden), name="bench")
    keras_path, onnx_path = (Path(argument) for argument in sys.argv[1:])
    model.save(keras_path)
    export_onnx(model, onnx_path)


if __name__ == "__main__":
    main()
