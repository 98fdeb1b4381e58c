"""A round: every model is checked, in one process, without a page for what is fine."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from core.connections import Connections
from core.errors import MillraceError
from core.findings import Outcome
from core.policies import DriftPolicy
from monitoring.checking import judge_version, store_failure

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Round:
    """What a round found: the outcome of each checked model, and the models whose check failed."""

    outcomes: Mapping[str, Outcome]
    failed: tuple[str, ...]


def check_versions(
    connections: Connections,
    versions: Mapping[str, int],
    policies: Mapping[str, DriftPolicy],
    *,
    key: str,
    actor: str = "platform",
) -> Round:
    """Check every model of `policies` that has a version in Production, one after the other.

    `key` names the round: run again after it was killed, it checks only what it had not. A check that fails is stored
    as a finding, and the others go on.
    """
    outcomes: dict[str, Outcome] = {}
    failed: list[str] = []
    for model, policy in policies.items():
        version = versions.get(model)
        if version is None:
            continue
        try:
            outcomes[model] = judge_version(connections, model, version, policy, actor=actor, key=key).outcome
        except Exception as error:
            # Whatever one model's data do to its check must not keep the others from theirs.
            reason = error.sentence if isinstance(error, MillraceError) else f"{type(error).__name__}: {error}"
            logger.exception("check failed", extra={"model": model})
            store_failure(connections, model, version, f"The check failed: {reason}", key=key)
            failed.append(model)
    return Round(outcomes, tuple(failed))
