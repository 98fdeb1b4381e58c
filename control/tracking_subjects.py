"""What a request to MLflow is about, as the audit log names it: ids and names, never contents."""

from collections.abc import Mapping

from control.tracking_bodies import Document, spell_names
from control.tracking_rights import Right
from core.audit import build_move

_REGISTRY = ("/api/2.0/mlflow/registered-models", "/api/2.0/mlflow/model-versions")
_IDS = {
    "run_id": "run",
    "run_uuid": "run",
    "experiment_id": "experiment",
    "model_id": "logged model",
    "trace_id": "trace",
    "request_id": "trace",
    "dataset_id": "dataset",
    "name": "name",
}


def find_subject(
    right: Right, parameters: Mapping[str, str], query: Mapping[str, str], document: Document
) -> tuple[str | None, str | None]:
    """The registered model, and what of it or instead of it; None for what the request does not name."""
    named = {name: value for name, value in spell_names({**query, **document}).items() if isinstance(value, str | int)}
    if right.template.startswith(_REGISTRY):
        return _text(named.get("name")), _find_part(named)
    if parameters:
        return None, ", ".join(f"{name} {value}" for name, value in parameters.items())
    return None, next((f"{word} {named[name]}" for name, word in _IDS.items() if name in named), None)


def _find_part(named: Mapping[str, str | int]) -> str | None:
    version, stage, alias = named.get("version"), named.get("stage"), named.get("alias")
    if version is not None and stage is not None:
        return build_move(version, str(stage))
    if alias is not None:
        return f"alias {alias}" if version is None else f"alias {alias} to version {version}"
    if version is not None:
        return f"version {version}"
    return f"to {named['new_name']}" if "new_name" in named else None


def _text(value: str | int | None) -> str | None:
    return None if value is None else str(value)
