"""What serves: `GET /models` and `GET /models/{model}`."""

from datetime import datetime

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from core.contract import Column, Contract, Kind
from core.errors import ModelNotFound
from serving.answering import READ
from serving.follower import Follower
from serving.model_pool import ModelPool


class ContractSummary(BaseModel):
    """What the version that serves takes and answers; `input_shape` is that of one row."""

    description: str
    kind: Kind
    target: str
    unit: str
    steps: int
    input_shape: tuple[int, ...]
    features: list[Column]
    monitored: list[str]
    routes: list[str]


class FailedVersion(BaseModel):
    """A version that should serve by the model's target and does not."""

    version: int
    reason: str
    failed_at: datetime


class ServedModel(BaseModel):
    """One model: its target, the version that the target means, and the version that serves.

    The two differ for as long as a version is being loaded, and where it could not be.
    """

    model: str
    target: str | None
    target_version: int | None
    version: int | None
    loaded_at: datetime | None
    """None for a version that is unloaded until it is asked for."""
    previous_version: int | None
    failed: FailedVersion | None
    contract: ContractSummary | None


class ServedModels(BaseModel):
    models: list[ServedModel]


def build_model_router(follower: Follower, pool: ModelPool) -> APIRouter:
    """The routes that tell what serves."""
    router = APIRouter(prefix="/models", tags=["models"], dependencies=[Depends(READ)])

    @router.get("", summary="Every model, and the version that serves it")
    async def models() -> ServedModels:
        return ServedModels(models=[_build(follower, pool, model) for model in follower.load_known_models()])

    @router.get("/{model}", summary="One model, and the version that serves it")
    async def model(model: str) -> ServedModel:
        known = follower.load_known_models()
        if model not in known:
            raise ModelNotFound(model, known)
        return _build(follower, pool, model)

    return router


def _build(follower: Follower, pool: ModelPool, model: str) -> ServedModel:
    resolved = follower.find_resolved(model)
    slot = pool.get_slot(model)
    failure = follower.find_failure(model)
    return ServedModel(
        model=model,
        target=resolved.target if resolved else None,
        target_version=resolved.version if resolved else None,
        version=slot.version,
        loaded_at=slot.serving.loaded_at if slot.serving else None,
        previous_version=slot.previous_version,
        failed=FailedVersion(version=failure.version, reason=failure.reason, failed_at=failure.failed_at)
        if failure
        else None,
        contract=_summarise(slot.contract) if slot.contract else None,
    )


def _summarise(contract: Contract) -> ContractSummary:
    return ContractSummary(
        description=contract.description,
        kind=contract.kind,
        target=contract.target,
        unit=contract.column(contract.target).unit,
        steps=contract.steps,
        input_shape=contract.input_shape,
        features=[contract.column(name) for name in contract.features],
        monitored=[feature.name for feature in contract.monitored],
        routes=[route.path for route in contract.routes],
    )
