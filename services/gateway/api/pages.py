"""The home page and the pages of the documents. All their files are served here, so that they work offline."""

import re
from base64 import b64encode
from functools import partial
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
SCRIPT, STYLE, ICON = ("/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/docs/favicon-32x32.png")
FILES = {path: STATIC / path.removeprefix("/docs/") for path in (SCRIPT, STYLE, ICON)} | {
    f"/asyncapi/static/{name}": STATIC / "asyncapi" / name for name in ("page.js", "schema.js", "page.css")
}
"""The files of the pages, by their public paths."""
TEXTS = {name: (STATIC / name).read_text(encoding="utf-8") for name in ("home.html", "docs.css", "asyncapi/page.html")}
LINKS = {"openapi": "/openapi.json", "docs": "/docs", "asyncapi": "/asyncapi", "live": "/livez", "ready": "/readyz"}


def _hash(text: str) -> str:
    """An inline script or style, as a content security policy allows it."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _page(text: str, policy: str, **headers: str) -> HTMLResponse:
    """A page that may load what `policy` allows, and may not be framed."""
    closed = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return HTMLResponse(text, headers=headers | {"Content-Security-Policy": f"default-src 'none'; {policy}; {closed}"})


HOME = Template(TEXTS["home.html"]).substitute(version=VERSION)
HOME_POLICY = f"style-src {_hash(HOME.partition('<style>')[2].partition('</style>')[0])}; img-src 'self'"
ASYNCAPI_POLICY = "script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'"


@router.get("/", include_in_schema=False)
async def home(accept: Annotated[str, Header()] = "") -> Response:
    """The home page: html for people, links for programs."""
    if "text/html" in accept:
        return _page(HOME, HOME_POLICY, Vary="Accept")
    return JSONResponse({"service": "malote", "version": VERSION, "links": LINKS}, headers={"Vary": "Accept"})


@router.get("/docs", include_in_schema=False)
async def docs() -> HTMLResponse:
    """Swagger UI, with scripts of our own, so that it works without internet."""
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Malote",
        swagger_js_url=SCRIPT,
        swagger_css_url=STYLE,
        swagger_favicon_url=ICON,
        swagger_ui_parameters={"persistAuthorization": False},  # or the token would stay in the browser
    )
    text = bytes(page.body).decode().replace("</head>", f"<style>\n{TEXTS['docs.css']}</style>\n</head>")
    hashes = " ".join(map(_hash, re.findall(r"<script>(.*?)</script>", text, re.DOTALL)))
    return _page(
        text,
        f"script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'",
    )


async def _file(path: Path) -> FileResponse:
    return FileResponse(path, headers={"Cache-Control": "public, max-age=86400"})


for public, file in FILES.items():
    router.add_api_route(public, partial(_file, file), include_in_schema=False, response_class=FileResponse)

MESSAGES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "An AsyncAPI 3.0 document; a page that shows it to who accepts `text/html`.",
        "content": {"application/json": {"schema": {"type": "object"}}, "text/html": {"schema": {"type": "string"}}},
    }
}


@router.get("/asyncapi", response_class=Response, responses=MESSAGES, tags=["documents"])
async def messages(accept: Annotated[str, Header()] = "") -> Response:
    """The messages of all services."""
    return _messages_page(asyncapi.ALL) if "text/html" in accept else _messages(asyncapi.ALL)


@router.get("/asyncapi.json", include_in_schema=False)
async def messages_json() -> Response:
    """The same document, whatever the client accepts."""
    return _messages(asyncapi.ALL)


@router.get("/asyncapi/{service}", response_class=Response, responses=MESSAGES, tags=["documents"])
async def messages_of(service: str, accept: Annotated[str, Header()] = "") -> Response:
    """The messages of one service."""
    name = service.removesuffix(".json")
    if name not in asyncapi.names():
        raise Problem(404, "no_such_service", f"There is no service {name!r}: {', '.join(asyncapi.names())} are there.")
    return _messages_page(name) if "text/html" in accept and name == service else _messages(name)


def _messages(name: str) -> Response:
    return Response(asyncapi.text(name), media_type="application/json", headers={"Vary": "Accept"})


def _messages_page(name: str) -> HTMLResponse:
    links = " ".join(
        f'<a href="{path}"{" aria-current=page" if one == name else ""}>{"all" if one == asyncapi.ALL else one}</a>'
        for one, path in ((one, asyncapi.path(one)) for one in asyncapi.names())
    )
    title = "Malote's messages" if name == asyncapi.ALL else f"Messages of {name}"
    document = f"{asyncapi.path(name)}.json"
    page = Template(TEXTS["asyncapi/page.html"]).substitute(title=title, links=links, document=document)
    return _page(page, ASYNCAPI_POLICY, Vary="Accept")
