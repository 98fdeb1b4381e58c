"""The answer of a ranking, inside the graph: the best items that the user does not have, or popular ones."""

import keras
import numpy as np
from keras import layers, ops

from core.contract import Contract
from training.parts import Part

_EXCLUDED = -1e30


def build_answering_model(contract: Contract, model: keras.Model, train: Part) -> keras.Model:
    """`(batch, steps, 2)` -> `(batch, 2 · most)`: codes of the best items, best first, then their scores.

    `model` takes the same and gives each item a score, `(batch, items)`. Where the input has no item that was liked the
    score is how often each was liked in `train`. What is in the input is never answered: the best `most + steps` are
    taken, those among them that the input has fall out, and `most` of the rest are left, so that no mask over all items
    is needed. Where there are no more items, code and score are 0.
    """
    ranking = contract.ranking
    if ranking is None:
        raise ValueError(f"{contract.model} is no ranking")
    items = len(contract.vocabularies[contract.features[0]])
    # Its tensors and not the model itself, which as a layer would bring its loss into the file.
    history, scores = model.inputs[0], model.outputs[0]
    codes, strengths = history[:, :, 0], history[:, :, 1]
    liked = ops.logical_and(codes > 0.5, strengths >= ranking.liked_from)
    is_known = ops.cast(ops.any(liked, axis=1, keepdims=True), "float32")
    popularity = layers.Dense(items, use_bias=False, trainable=False, name="popularity")
    scores = scores * is_known + popularity(1.0 - is_known)
    counts = np.bincount(train.targets[train.targets > 0].astype(np.int64), minlength=items + 1)[1:]
    popularity.set_weights([counts.astype(np.float32)[None, :]])

    taken = min(items, ranking.most + contract.steps)
    best, places = ops.top_k(scores, taken)
    found = ops.cast(places, "float32") + 1.0
    is_seen = ops.any(ops.equal(ops.expand_dims(found, 2), ops.expand_dims(codes, 1)), axis=2)
    best = ops.where(is_seen, _EXCLUDED, best)
    most = min(ranking.most, taken)
    best, places = ops.top_k(best, most)
    found = ops.take_along_axis(found, places, axis=1)
    is_there = best > _EXCLUDED / 2
    found, best = ops.where(is_there, found, 0.0), ops.where(is_there, best, 0.0)
    fill = [[0, 0], [0, ranking.most - most]]
    answer = ops.concatenate([ops.pad(found, fill), ops.pad(best, fill)], axis=1)
    return keras.Model(history, answer, name=contract.model)
