"""The data plane, without HTTP: a parsed request in, a recorded prediction out."""

from collections.abc import Callable
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from core.codecs import CODECS, check_inputs, decode_request
from core.contract import Contract, Route
from core.errors import AnswerNotFinite, Fault, RequestRejected, show_value
from core.features import build_monitored
from serving.answers import Prediction
from serving.journal import Journal
from serving.loading import LoadedVersion
from serving.records import Entry, build_ids, now_us

Decode = Callable[[Contract, object], NDArray[np.float32]]

_MEMBERS = {*CODECS, "version"}


class DataPlane:
    """Decodes, checks, infers and records. Safe to call from several threads."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def predict(self, loaded: LoadedVersion, body: object, request_id: str) -> Prediction:
        """Answer our own route's body, an object with `values` or `rows`, and with `version` if one was asked for.

        When it returns, the prediction is in the journal. Raises RequestRejected and AnswerNotFinite, which are in
        the journal too, and JournalFull, JournalUnwritable.
        """
        return self._predict(loaded, body, _decode_own, request_id)

    def predict_documented(self, loaded: LoadedVersion, route: Route, body: object, request_id: str) -> Prediction:
        """Answer a documented route's body: an object with the member that its codec is named after, one row."""

        def decode(contract: Contract, given: object) -> NDArray[np.float32]:
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

        return self._predict(loaded, body, decode, request_id)

    def _predict(self, loaded: LoadedVersion, body: object, decode: Decode, request_id: str) -> Prediction:
        contract = loaded.contract
        try:
            inputs = decode(contract, body)
            if not np.isfinite(inputs).all():
                # A double that is beyond float32.
                check_inputs(contract, inputs)
        except RequestRejected as error:
            self._refuse(loaded, request_id, error.sentence)
            raise
        outputs = loaded.runtime.predict(inputs)
        if not np.isfinite(outputs).all():
            failure = AnswerNotFinite(loaded.model, loaded.version)
            self._refuse(loaded, request_id, failure.sentence)
            raise failure
        ids = build_ids(len(inputs))
        self._record(loaded, request_id, ids, inputs, outputs)
        return Prediction(loaded.model, loaded.version, contract.steps, outputs, ids)

    def _record(
        self,
        loaded: LoadedVersion,
        request_id: str,
        ids: list[UUID],
        inputs: NDArray[np.float32],
        outputs: NDArray[np.float32],
    ) -> None:
        self._journal.append(
            Entry(
                at_us=now_us(),
                model=loaded.model,
                version=loaded.version,
                request_id=request_id,
                ids=ids,
                inputs=inputs.reshape(len(inputs), -1),
                monitored=build_monitored(loaded.contract, inputs),
                outputs=outputs,
            )
        )

    def _refuse(self, loaded: LoadedVersion, request_id: str, reason: str) -> None:
        self._journal.append(
            Entry(
                at_us=now_us(),
                model=loaded.model,
                version=loaded.version,
                request_id=request_id,
                ids=build_ids(1),
                reason=reason,
            )
        )


def _decode_own(contract: Contract, body: object) -> NDArray[np.float32]:
    unknown = sorted(set(map(str, body)) - _MEMBERS) if isinstance(body, dict) else []
    if unknown:
        # A member that is misspelt would be answered by another version, or for fewer rows, than was meant.
        rule = f"only {', '.join(sorted(_MEMBERS))} are known"
        raise RequestRejected(contract.model, [Fault("body", show_value(name), rule) for name in unknown])
    return decode_request(contract, body)
