"""What a training goes on from: the weights of the version in Production, or none."""

import logging
from collections.abc import Mapping
from pathlib import Path

from core.errors import TrainingFailed
from core.trainings import WHERE_POSSIBLE
from training.candidate import Candidate
from training.kinds import get_kind
from training.variants import Earlier, find_difference
from workloads.declaration import FIT_PARAMETERS, Workload

logger = logging.getLogger(__name__)

_STEP = "continue an earlier version"


def choose_earlier(
    workload: Workload, wish: object, champion: tuple[Candidate, Path] | None, given: Mapping[str, object]
) -> tuple[Earlier | None, dict[str, int | float]]:
    """The version to train on, None for a training from the beginning, and every parameter with its value.

    `wish` is the training's parameter CONTINUE, `champion` the version in Production with its Keras file. What makes
    the network what it is comes from that version where it is continued, so that its weights fit, unless it is given.
    Raises TrainingFailed where a version must be continued and none can be, ParameterRejected.
    """
    if not wish:
        return None, workload.resolve_parameters(given)
    obstacle = _find_obstacle(workload, champion)
    if champion is None or obstacle is not None:
        if wish != WHERE_POSSIBLE:
            raise TrainingFailed(workload.name, _STEP, str(obstacle))
        logger.info("trained anew", extra={"model": workload.name, "reason": obstacle})
        return None, workload.resolve_parameters(given)
    candidate, keras_path = champion
    kept = {
        name: value
        for name, value in candidate.parameters.items()
        if name in workload.parameters and name not in FIT_PARAMETERS
    }
    return Earlier(candidate.contract, keras_path), workload.resolve_parameters({**kept, **given})


def _find_obstacle(workload: Workload, champion: tuple[Candidate, Path] | None) -> str | None:
    """Why no weights can be trained on, in words; None if they can."""
    if champion is None:
        return "no version is in Production"
    contract = champion[0].contract
    if contract.variant and contract.variant not in workload.variants:
        return f"the workload has no variant {contract.variant!r} any more; train anew"
    declared = workload.build_contract(variant=contract.variant)
    if not get_kind(declared).can_continue:
        return f"a {declared.kind} is trained anew from all rows"
    return find_difference(declared, contract)
