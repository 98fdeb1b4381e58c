"""The page `/docs`: an application's OpenAPI description, with the page's script and style from this process.

FastAPI's own page takes them from another site, which a machine without the internet does not reach.
"""

from importlib.resources import files

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

_ASSETS = "/docs/assets"


def install_documentation(app: FastAPI) -> None:
    """Add the page to `app`, which is made without pages of its own (`docs_url=None, redoc_url=None`)."""
    page = get_swagger_ui_html(
        openapi_url=str(app.openapi_url),
        title=app.title,
        swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{_ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{_ASSETS}/favicon.png",
    )

    @app.get("/docs", include_in_schema=False)
    async def show_documentation() -> HTMLResponse:
        return page

    # The package is taken for the files that it ships.
    app.mount(_ASSETS, StaticFiles(directory=str(files("fastapi_offline") / "static")), name="documentation")
