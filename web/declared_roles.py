"""What every route of an application declares of its callers. One that declares nothing keeps it from starting."""

from collections.abc import Iterator

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import RouteContext, iter_route_contexts
from starlette.routing import Mount

from web.principal import Requirement
from web.public_routes import DOCUMENTATION_ASSETS, PUBLIC_PATHS

Declared = dict[tuple[str, str], Requirement | None]
"""By method and path: what is required; None for anybody."""

_MOUNTED_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


class RouteUndeclared(TypeError):
    """A route that neither requires a role nor is in the list of public ones, or does both."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} has to declare who may ask: either `Depends(require(Role.…))`, or an entry in web.public_routes"
        )


def load_declared(app: FastAPI) -> Declared:
    """What each method of each route declares; raises RouteUndeclared."""
    declared: Declared = {}
    for route in iter_route_contexts(app.routes):
        path = str(route.path)
        mounted = route.original_route.app if isinstance(route.original_route, Mount) else None
        if mounted is not None and path == DOCUMENTATION_ASSETS:
            declared["GET", f"{path}/{{path}}"] = None
        elif mounted is not None and isinstance(asked := getattr(mounted, "requirement", None), Requirement):
            declared |= {(method, f"{path}/{{path}}"): asked for method in _MOUNTED_METHODS}
        else:
            required = _find_requirement(route)
            if (required is None) != (path in PUBLIC_PATHS):
                raise RouteUndeclared(path)
            declared |= {(method, path): required for method in (route.methods or set()) - {"HEAD"}}
    return declared


def _find_requirement(route: RouteContext) -> Requirement | None:
    """All that are declared are asked for: the greatest role decides."""
    dependant = getattr(route, "dependant", None)
    found = _find_required(dependant) if isinstance(dependant, Dependant) else ()
    return max(found, default=None, key=lambda one: one.role)


def _find_required(dependant: Dependant) -> Iterator[Requirement]:
    if isinstance(dependant.call, Requirement):
        yield dependant.call
    for one in dependant.dependencies:
        yield from _find_required(one)
