"""Refusals of the serving process on their way to the audit log.

Nothing of it touches the database while a request is answered. What another process answered, that process recorded.
"""

from starlette.types import Scope

from serving.prediction_routes import find_predicted_model
from web.audit_writer import AuditWriter
from web.auditing import REFUSALS, build_entry, note_action
from web.forwarding import is_answered_upstream
from web.problems import Observe

_PREDICT = "POST /models/{model}/predict"


def build_refusal_counter(writer: AuditWriter, observe: Observe) -> Observe:
    """`observe`, and what counts the refusals among the answers."""

    def observe_and_count(scope: Scope, status: int, seconds: float) -> None:
        observe(scope, status, seconds)
        if status in REFUSALS and not is_answered_upstream(scope):
            _count(writer, scope, status)

    return observe_and_count


def _count(writer: AuditWriter, scope: Scope, status: int) -> None:
    # Predictions are routed before the framework.
    if find_predicted_model(scope) is not None:
        note_action(scope, _PREDICT, is_changing=False)
    writer.count(build_entry(scope, status, "serving"))
