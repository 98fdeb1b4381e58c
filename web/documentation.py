"""The page `/docs`: an application's OpenAPI description, with the page's script and style from this process.

FastAPI's own page takes them from another site, which a machine without the internet does not reach. The description
names models and columns, so that both are for whoever is signed in; the assets are anybody's.
"""

from importlib.resources import files

from fastapi import Depends, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse, JSONResponse
from starlette.staticfiles import StaticFiles

from core.principals import Role
from web.principal import require
from web.public_routes import DOCUMENTATION_ASSETS

_PAGE, _DESCRIPTION = "/docs", "/openapi.json"
CONTROL_PAGE, CONTROL_DESCRIPTION = "/docs/control", "/docs/control/openapi.json"
"""Where serving, which has a page of its own, lets control's through."""


def install_documentation(app: FastAPI, page: str = _PAGE, description: str = _DESCRIPTION) -> None:
    """Add both to `app`, which is made without its own (`openapi_url=None, docs_url=None, redoc_url=None`)."""
    content = get_swagger_ui_html(
        openapi_url=description,
        title=app.title,
        swagger_js_url=f"{DOCUMENTATION_ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{DOCUMENTATION_ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{DOCUMENTATION_ASSETS}/favicon.png",
    )

    signed_in = [Depends(require(Role.VIEWER))]

    @app.get(description, include_in_schema=False, dependencies=signed_in)
    async def describe() -> JSONResponse:
        return JSONResponse(app.openapi())

    @app.get(page, include_in_schema=False, dependencies=signed_in)
    async def show_documentation() -> HTMLResponse:
        return content


def mount_assets(app: FastAPI) -> None:
    """Add the pages' script and style."""
    # The package is taken for the files that it ships.
    app.mount(
        DOCUMENTATION_ASSETS, StaticFiles(directory=str(files("fastapi_offline") / "static")), name="documentation"
    )
