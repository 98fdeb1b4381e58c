"""The Keras model that ranking workloads start from: a factorisation that scores all items from what a user has."""

from collections.abc import Callable, Mapping

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags_array
from sklearn.utils.extmath import randomized_svd

from core.contract import Contract

_ROWS_A_FACTOR = 20
"""So many users, and items, are needed for each factor: with more factors the table would repeat what it was given."""


def build_model(contract: Contract, parameters: Mapping[str, int | float], inputs: NDArray[np.float32]) -> keras.Model:
    """A compiled factorisation: `(batch, steps, 2)` codes and strengths -> a score for each item `(batch, items)`.

    A user is the sum of vectors of what the user has, an item's score the product with a second vector of the item's:
    a new user, or a new interaction, needs no training. Both tables begin at the truncated singular value decomposition
    of users by liked items in `inputs` `(users, steps, 2)`, the training part, its columns divided by popularity to the
    power `damping`, without which the popular items take all the factors. From there a fit goes on with parts of each
    history left out. The loss is the squared error over all items, 1 for liked and 0 for the rest, with the same
    division. Source: Cremonesi, Koren and Turrin, "Performance of recommender algorithms on top-N recommendation
    tasks", 2010 (PureSVD); Steck, "Autoencoders that don't overfit towards the identity", 2020 (dropout).
    """
    if contract.ranking is None:
        raise ValueError(f"{contract.model} is no ranking")
    items = len(contract.vocabularies[contract.features[0]])
    scale, into, out = _factorise(contract, parameters, inputs, items)

    history = keras.Input(contract.input_shape, dtype="float32", name="inputs")
    codes, strengths = history[:, :, 0], history[:, :, 1]
    weights = ops.where(strengths >= contract.ranking.liked_from, 1.0, float(parameters["other_weight"]))
    weights = layers.Dropout(float(parameters["dropout"]))(weights * ops.cast(codes > 0.5, "float32"))
    # What is no code counts as none.
    codes = ops.cast(ops.where((codes >= 0) & (codes <= items), codes, 0.0), "int32")
    vectors = layers.Embedding(items + 1, into.shape[1], name="into")
    scoring = layers.Dense(items, use_bias=False, name="out")
    scores = scoring(ops.sum(vectors(codes) * ops.expand_dims(weights, 2), axis=1))
    vectors.set_weights([np.vstack([np.zeros((1, into.shape[1])), into])])
    scoring.set_weights([out])

    model = keras.Model(history, scores, name=f"{contract.model}_scores")
    optimizer = keras.optimizers.Adam(float(parameters["learning_rate"]), clipnorm=1.0)
    model.compile(optimizer=optimizer, loss=build_loss(1.0 / scale**2))
    return model


def _factorise(
    contract: Contract, parameters: Mapping[str, int | float], inputs: NDArray[np.float32], items: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """What errors of each item are divided by `(items,)`; both tables, `(items, factors)` and `(factors, items)`."""
    liked_from = contract.ranking.liked_from if contract.ranking else 0.0
    users, places = np.nonzero((inputs[:, :, 0] > 0) & (inputs[:, :, 1] >= liked_from))
    codes = inputs[users, places, 0].astype(np.int64) - 1
    liked = csr_matrix((np.ones(len(users)), (users, codes)), shape=(len(inputs), items))
    scale = np.maximum(np.asarray(liked.sum(axis=0)).ravel(), 1.0) ** float(parameters["damping"])
    factors = max(1, min(int(parameters["factors"]), min(items, len(inputs)) // _ROWS_A_FACTOR))
    _, _, found = randomized_svd(liked @ diags_array(1.0 / scale), factors, random_state=int(parameters["seed"]))
    into, out = found.T / scale[:, None], found * scale
    # One gradient step then means as much to either table.
    ratio = float(np.sqrt(np.abs(out).mean() / max(float(np.abs(into).mean()), 1e-12)))
    return scale, into * ratio, out / ratio


def build_loss(weights: NDArray[np.float64]) -> Callable[[keras.KerasTensor, keras.KerasTensor], keras.KerasTensor]:
    """Squared errors of scores `(batch, items)` against codes of liked items `(batch, liked)`, weighted by item.

    Σ over all items of w s², plus Σ over liked ones of w (1 - 2 s), is Σ w (t - s)²: no row of all items is built.
    """
    by_item = ops.convert_to_tensor(weights.astype(np.float32))

    def compute_loss(liked: keras.KerasTensor, scores: keras.KerasTensor) -> keras.KerasTensor:
        places = ops.maximum(ops.cast(liked, "int32") - 1, 0)
        is_liked = ops.cast(liked > 0.5, "float32")
        reached = ops.take_along_axis(scores, places, axis=1)
        missed = is_liked * ops.take(by_item, places) * (1.0 - 2.0 * reached)
        return ops.sum(by_item * ops.square(scores), axis=1) + ops.sum(missed, axis=1)

    return compute_loss
