"""Documented routes: paths that the contracts of models ask for, dispatched as the versions come."""

import logging
from collections.abc import Mapping
from typing import Self

from core.contract import Contract, Route

logger = logging.getLogger(__name__)

USER = "{user}"


class DocumentedRoutes:
    """Which model and route answers a path. Where two models ask for one path, the first by name has it.

    `{user}` in a route's path stands for any one part of an asked one, which no other part of it may.
    """

    def __init__(self, contracts: Mapping[str, Contract] | None = None) -> None:
        self._contracts = dict(contracts or {})
        self._routes: dict[str, tuple[str, Route]] = {}
        for model, contract in sorted(self._contracts.items()):
            for route in contract.routes:
                owner = self._routes.setdefault(route.path, (model, route))[0]
                if owner != model:
                    logger.error("%s asks for %s, which %s has already", model, route.path, owner)

    def replace(self, contracts: Mapping[str, Contract]) -> Self:
        """These routes where the contracts are the same, else new ones."""
        return self if contracts == self._contracts else type(self)(contracts)

    def find(self, path: str) -> tuple[str, Route, str | None] | None:
        """The model and route of a path, and the user in it where the route has one."""
        found = self._routes.get(path)
        if found is not None:
            return *found, None
        for model, route in self._routes.values():
            if USER in route.path:
                before, _, after = route.path.partition(USER)
                user = path.removeprefix(before).removesuffix(after)
                if user and "/" not in user and path == before + user + after:
                    return model, route, user
        return None

    def load_all(self) -> dict[str, tuple[Contract, Route]]:
        """Every path, with the contract of its model and the route."""
        return {path: (self._contracts[model], route) for path, (model, route) in self._routes.items()}
