"""Pages and documents: what is here, and how it is used. Their files are our own, so that they work offline."""

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from string import Template
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse

from shared.config.version import VERSION
from shared.docs import asyncapi
from shared.http.body import Route
from shared.http.problems import Problem

router = APIRouter(route_class=Route)
STATIC = Path(__file__).parents[1] / "static"
SWAGGER_FILES = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png")
ASYNCAPI_FILES = ("page.js", "schema.js", "page.css")
ASYNCAPI_MAY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
)
DOCS_STYLE = """\
<style>
.swagger-ui .opblock .opblock-summary-method { color: #111; text-shadow: none; }
@media (max-width: 640px) { .swagger-ui .download-contents { position: static; } }
@media (prefers-color-scheme: dark) {
  html { background: #14181f; color-scheme: dark; }
  .swagger-ui { filter: invert(0.94) hue-rotate(180deg); color-scheme: light; }
  .swagger-ui .scheme-container { background: none; box-shadow: none; }
  .swagger-ui .dialog-ux .backdrop-ux { background: rgba(255, 255, 255, 0.8); }
  .swagger-ui .highlight-code, .swagger-ui :not(.highlight-code) > .microlight { filter: invert(1) hue-rotate(180deg); }
  .swagger-ui .json-schema-2020-12-head button { background: none; color: #3b4151; }
}
</style>
"""

HOME = Template((STATIC / "home.html").read_text(encoding="utf-8")).substitute(version=VERSION)
_STYLE = HOME.partition("<style>")[2].partition("</style>")[0]
HOME_MAY = (
    f"default-src 'none'; style-src 'sha256-{b64encode(sha256(_STYLE.encode()).digest()).decode()}';"
    " img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
LINKS = {
    "openapi": "/openapi.json",
    "docs": "/docs",
    "asyncapi": "/asyncapi",
    "live": "/livez",
    "ready": "/readyz",
}


@router.get("/", include_in_schema=False)
async def home(accept: Annotated[str, Header()] = "") -> Response:
    """What is here: a page for people, links for programs."""
    if "text/html" in accept:
        return HTMLResponse(HOME, headers={"Vary": "Accept", "Content-Security-Policy": HOME_MAY})
    return JSONResponse({"service": "malote", "version": VERSION, "links": LINKS}, headers={"Vary": "Accept"})


@router.get("/docs", include_in_schema=False)
async def docs() -> HTMLResponse:
    """Swagger UI, with scripts of our own, so that it works without internet."""
    script, style, icon = (f"/docs/{name}" for name in SWAGGER_FILES)
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Malote",
        swagger_js_url=script,
        swagger_css_url=style,
        swagger_favicon_url=icon,
        swagger_ui_parameters={"persistAuthorization": False},  # or the token would stay in the browser
    )
    text = bytes(page.body).decode().replace("</head>", f"{DOCS_STYLE}</head>")
    return HTMLResponse(text, headers={"Content-Security-Policy": _only_what_is_in(text)})


def _only_what_is_in(page: str) -> str:
    """What a page of documents may do: run our files, and the script that is written into it, and ask us."""
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = " ".join(f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" for script in scripts)
    return (
        f"default-src 'none'; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


@router.get("/docs/{name}", include_in_schema=False)
async def docs_file(name: str) -> FileResponse:
    """One of the page's own files."""
    if name not in SWAGGER_FILES:
        raise Problem(404, "not_found", "Not Found")
    return FileResponse(STATIC / name, headers={"Cache-Control": "public, max-age=86400"})


MESSAGES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "An AsyncAPI 3.0 document; a page that shows it to who accepts `text/html`.",
        "content": {"application/json": {"schema": {"type": "object"}}, "text/html": {"schema": {"type": "string"}}},
    }
}


@router.get("/asyncapi", response_class=Response, responses=MESSAGES, tags=["documents"])
async def messages(accept: Annotated[str, Header()] = "") -> Response:
    """What goes over the broker: the messages of all services."""
    return _page(asyncapi.ALL) if "text/html" in accept else _messages(asyncapi.ALL)


@router.get("/asyncapi.json", include_in_schema=False)
async def messages_json() -> Response:
    """The same, whatever is accepted."""
    return _messages(asyncapi.ALL)


@router.get("/asyncapi/static/{name}", include_in_schema=False)
async def messages_file(name: str) -> FileResponse:
    """One of the page's own files."""
    if name not in ASYNCAPI_FILES:
        raise Problem(404, "not_found", "Not Found")
    return FileResponse(STATIC / "asyncapi" / name, headers={"Cache-Control": "public, max-age=86400"})


@router.get("/asyncapi/{service}", response_class=Response, responses=MESSAGES, tags=["documents"])
async def messages_of(service: str, accept: Annotated[str, Header()] = "") -> Response:
    """The messages of one service."""
    name = service.removesuffix(".json")
    if name not in asyncapi.names():
        raise Problem(404, "no_such_service", f"There is no service {name!r}: {', '.join(asyncapi.names())} are there.")
    return _page(name) if "text/html" in accept and name == service else _messages(name)


def _messages(name: str) -> Response:
    return Response(asyncapi.text(name), media_type="application/json", headers={"Vary": "Accept"})


def _page(name: str) -> HTMLResponse:
    links = " ".join(
        f'<a href="{path}"{" aria-current=page" if one == name else ""}>{"all" if one == asyncapi.ALL else one}</a>'
        for one, path in ((one, asyncapi.path(one)) for one in asyncapi.names())
    )
    template = Template((STATIC / "asyncapi" / "page.html").read_text(encoding="utf-8"))
    title = "Malote's messages" if name == asyncapi.ALL else f"Messages of {name}"
    page = template.substitute(title=title, links=links, document=f"{asyncapi.path(name)}.json")
    return HTMLResponse(page, headers={"Vary": "Accept", "Content-Security-Policy": ASYNCAPI_MAY})
