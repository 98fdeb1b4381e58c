"""The data plane, without HTTP: a parsed request in, a recorded prediction out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from core.codecs import CODECS, decode_request, decode_row
from core.contract import Contract, Route
from core.errors import Fault, RequestRejected, show_value
from core.features import PREDICTION, build_monitored, build_prediction, encode_history
from core.predicted_keys import PredictedKey, find_predicted_keys
from core.serving_errors import AnswerNotFinite
from serving.answers import Prediction
from serving.histories import History
from serving.journal import Journal
from serving.loading import LoadedVersion
from serving.prediction_ids import draw_ids
from serving.ranking import Ranked, choose_items, knows_likes
from serving.records import Entry, now_us

Decode = Callable[[Contract, object], NDArray[np.float32]]

_MEMBERS = {*CODECS, "version"}


class DataPlane:
    """Decodes, checks, infers and records. Safe to call from several threads."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def predict(self, loaded: LoadedVersion, body: object, request_id: str) -> Prediction:
        """Answer our own route's body, an object with `values` or `rows`, and with `version` if one was asked for.

        When it returns, the prediction is in the journal. Raises RequestRejected, which is in the journal too, as a
        refusal, AnswerNotFinite, JournalFull and JournalUnwritable.
        """
        rows = body.get("rows") if isinstance(body, dict) else None
        return self._predict(loaded, body, _decode_own, request_id, rows)

    def predict_documented(self, loaded: LoadedVersion, route: Route, body: object, request_id: str) -> Prediction:
        """Answer a documented route's body: one row, itself or as the member that the codec is named after."""

        def decode(contract: Contract, given: object) -> NDArray[np.float32]:
            if route.codec is None or route.codec == "row":
                return decode_row(contract, given)
            if not isinstance(given, dict) or route.codec not in given:
                value = show_value(sorted(map(str, given)) if isinstance(given, dict) else given)
                raise RequestRejected(
                    contract.model, [Fault("body", value, f"a JSON object with `{route.codec}` is expected")]
                )
            inputs = CODECS[route.codec](contract, given[route.codec])
            if len(inputs) != 1:
                fault = Fault(route.codec, f"{len(inputs)} rows", f"{route.path} takes one at a time")
                raise RequestRejected(contract.model, [fault])
            return inputs

        rows = body.get("rows") if isinstance(body, dict) and route.codec == "rows" else None
        return self._predict(loaded, body, decode, request_id, body if route.codec == "row" else rows)

    def rank(self, loaded: LoadedVersion, history: History, k: int, request_id: str) -> Ranked:
        """The `k` best items for the user with that history, without any that the user has; fewer if there are no more.

        What is in the journal is the input and those items: the codes, then the scores, zeros where there are fewer.
        """
        contract = loaded.contract
        inputs = encode_history(contract, history.items, history.strengths)[None]
        outputs = self._infer(loaded, inputs)[0]
        codes, scores = choose_items(contract, outputs, history, k)
        answered = np.zeros((1, 2 * k), dtype=np.float32)
        answered[0, : len(codes)], answered[0, k : k + len(codes)] = codes, scores
        ids = draw_ids(1)
        self._record(loaded, request_id, ids, inputs, answered)
        return Ranked(
            contract, loaded.version, codes, scores, knows_likes(contract, inputs[0]), history.is_whole, ids[0]
        )

    def predict_decoded(self, loaded: LoadedVersion, body: object, decode: Decode, request_id: str) -> Prediction:
        """Answer a body of another protocol, which `decode` makes the checked input; recorded and raising as `predict`.

        `decode` raises RequestRejected.
        """
        return self._predict(loaded, body, decode, request_id)

    @contextmanager
    def noting_refusal(self, loaded: LoadedVersion, request_id: str) -> Iterator[None]:
        """Record a request that the block refuses with RequestRejected."""
        try:
            yield
        except RequestRejected as error:
            self._note(loaded, request_id, error.sentence, error.counted)
            raise

    def note_failure(self, loaded: LoadedVersion, request_id: str, reason: str, *, is_finite: bool = True) -> None:
        """Record a request that got no answer for reasons of the version, whose error rate it counts towards."""
        refused = () if is_finite else ((PREDICTION, "not_finite"),)
        self._note(loaded, request_id, reason, refused, is_failure=True)

    def _predict(
        self, loaded: LoadedVersion, body: object, decode: Decode, request_id: str, rows: object = None
    ) -> Prediction:
        """`rows` are those of the body that say what they are about, as codec `rows` takes them."""
        contract = loaded.contract
        try:
            inputs = decode(contract, body)
        except RequestRejected as error:
            self._note(loaded, request_id, error.sentence, error.counted)
            raise
        outputs = self._infer(loaded, inputs)
        ids = draw_ids(len(inputs))
        keys = None if rows is None else find_predicted_keys(contract, rows)
        self._record(loaded, request_id, ids, inputs, outputs, keys)
        return Prediction(loaded.model, loaded.version, contract, outputs, ids)

    def _infer(self, loaded: LoadedVersion, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        outputs = loaded.runtime.predict(inputs)
        if not np.logical_and.reduce(np.isfinite(outputs), axis=None):
            raise AnswerNotFinite(loaded.model, loaded.version)
        return outputs

    def _record(
        self,
        loaded: LoadedVersion,
        request_id: str,
        ids: list[UUID],
        inputs: NDArray[np.float32],
        outputs: NDArray[np.float32],
        keys: list[PredictedKey | None] | None = None,
    ) -> None:
        self._journal.append(
            Entry(
                at_us=now_us(),
                model=loaded.model,
                version=loaded.version,
                request_id=request_id,
                ids=ids,
                inputs=inputs.reshape(len(inputs), -1),
                monitored=_build_watched(loaded, inputs, outputs),
                outputs=outputs,
                keys=keys,
            )
        )

    def _note(
        self,
        loaded: LoadedVersion,
        request_id: str,
        reason: str,
        refused: tuple[tuple[str, str], ...] = (),
        *,
        is_failure: bool = False,
    ) -> None:
        self._journal.append(
            Entry(
                at_us=now_us(),
                model=loaded.model,
                version=loaded.version,
                request_id=request_id,
                ids=draw_ids(1),
                reason=reason,
                refused=refused,
                is_failure=is_failure,
            )
        )


def _build_watched(
    loaded: LoadedVersion, inputs: NDArray[np.float32], outputs: NDArray[np.float32]
) -> NDArray[np.float64]:
    """The values that are counted, `(batch, watched)`, in the order of the version's own reference."""
    monitored = build_monitored(loaded.contract, inputs)
    if loaded.reference is None or not loaded.reference.has_prediction:
        return monitored
    return np.column_stack([monitored, build_prediction(loaded.contract, inputs, outputs)])


def _decode_own(contract: Contract, body: object) -> NDArray[np.float32]:
    if isinstance(body, dict) and not body.keys() <= _MEMBERS:
        unknown = sorted(set(map(str, body)) - _MEMBERS)
        # A member that is misspelt would be answered by another version, or for fewer rows, than was meant.
        rule = f"only {', '.join(sorted(_MEMBERS))} are known"
        raise RequestRejected(contract.model, [Fault("body", show_value(name), rule) for name in unknown])
    return decode_request(contract, body)
