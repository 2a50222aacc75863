"""The HTTP application of `ckd serve`: its routes and its page."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from html import escape
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.routing import APIRoute
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException as AnyHTTPException

from ckd import __version__
from ckd.predict.serving.batcher import Batcher, BusyError, ModelFailedError
from ckd.predict.serving.gauges import Gauges
from ckd.predict.serving.guard import DEFAULTS, Guard, Limits, refused
from ckd.predict.serving.schema import ErrorResponse, PredictRequest, PredictResponse, VisitIn, refusal
from ckd.store.jsonfile import JsonError, parse_json
from ckd.visits.task import Task

if TYPE_CHECKING:
    from ckd.predict.scorer import Scores

Write = Callable[[VisitIn], str]  # raises ValueError, whose words quote nothing of the visit

_NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
_ERRORS = {
    401: "no or a wrong token",
    408: "the body did not arrive in time",
    413: "the body is too large",
    415: "not application/json, or compressed",
    422: "not a valid request",
    500: "the model failed on this request",
    503: "too busy, or about to stop; try again after Retry-After seconds",
}


def must_be_text(_: VisitIn) -> str:
    """Refuse a visit that is no finished text."""
    raise ValueError("codes and drugs are taken where the server was started with --like COHORT; give input")


def make_app(
    score: Callable[[list[str]], "Scores"],
    task: Task,
    identity: Mapping[str, object],
    token: str | None = None,
    limits: Limits = DEFAULTS,
    write: Write = must_be_text,
) -> Guard:
    """The whole server as an ASGI application around a scorer. `identity` says in every answer which model gave it.

    `write` makes a visit's text of its codes and drugs; by default such visits are refused.
    Its lifespan's end answers what is in the queue and ends the model thread.
    """
    gauges = Gauges()
    batcher = Batcher(lambda texts: answers(score(texts), task), gauges.batch, limits.waiting, gauges.dropped)
    gauges.watch_queue(lambda: batcher.waiting)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(batcher.close)

    app = FastAPI(
        title="CKD-EHR student",
        version=__version__,
        description=_description(task),
        docs_url=None,  # these pages load scripts from another host
        redoc_url=None,
        redirect_slashes=False,  # an address that a proxy's clients may not know, and no JSON
        lifespan=lifespan,
        telemetry=_NO_TELEMETRY,  # it records exceptions, whose messages may quote a visit
    )
    app.router.route_class = _StrictRoute
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(AnyHTTPException, _refused)
    _add_predict(app, identity, batcher, limits, write)
    _add_pages(app, batcher, gauges)
    return Guard(app, gauges, limits, token)


def _description(task: Task) -> str:
    """What the figures are, in a sentence."""
    if task.next_visit_only:
        outcomes, given = f"{len(task)} diseases at the next visit", ", given that the patient returns"
    else:
        outcomes, given = (task.names[0] if len(task) == 1 else f"{len(task)} outcomes of task {task.name}"), ""
    return f"Probabilities of {outcomes}, from a visit's text: an association{given}."


def answers(scores: "Scores", task: Task) -> list[dict[str, Any]]:
    """One schema.VisitOut per text, without its visit_id."""
    none = [None] * len(scores.probabilities)
    calibrated = none if scores.calibrated is None else scores.calibrated.tolist()
    flags = none if scores.flags is None else scores.flags.tolist()
    return [
        {
            "probabilities": dict(zip(task.names, own, strict=True)),
            "calibrated": None if better is None else dict(zip(task.names, better, strict=True)),
            "names": None if flagged is None else task.named(flagged),
            "truncated": cut,
        }
        for own, better, flagged, cut in zip(
            scores.probabilities.tolist(), calibrated, flags, scores.truncated.tolist(), strict=True
        )
    ]


def _add_predict(app: FastAPI, identity: Mapping[str, object], batcher: Batcher, limits: Limits, write: Write) -> None:
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorResponse, "description": text} for status, text in _ERRORS.items()
    }

    @app.post("/predict", response_model=PredictResponse, responses=errors, summary="Score visits")
    async def predict(request: PredictRequest) -> Response:
        texts = [_text(place, visit, write) for place, visit in enumerate(request.visits)]
        try:
            future = batcher.submit(texts)
            found = await asyncio.wait_for(asyncio.wrap_future(future), limits.answer_seconds)
        except BusyError:
            raise HTTPException(503, "too busy; try again in a second", {"Retry-After": "1"}) from None
        except TimeoutError:
            raise HTTPException(
                503, f"no answer within {limits.answer_seconds:g} s; send fewer visits", {"Retry-After": "5"}
            ) from None
        except ModelFailedError:
            raise HTTPException(500, "the model failed on this request; the server's log says where") from None
        visits = [{"visit_id": asked.visit_id, **answer} for asked, answer in zip(request.visits, found, strict=True)]
        return JSONResponse({"model": identity, "visits": visits})


def _text(place: int, visit: VisitIn, write: Write) -> str:
    if visit.input is not None:
        return visit.input
    try:
        return write(visit)
    except ValueError as error:  # says places and rules only
        raise HTTPException(422, f"visits.{place}: {error}") from None


def _add_pages(app: FastAPI, batcher: Batcher, gauges: Gauges) -> None:
    @app.get("/healthz", summary="200 while requests are taken, else 503")
    async def healthz() -> Response:
        alive = batcher.alive()
        return JSONResponse({"status": "ok" if alive else "stopping"}, 200 if alive else 503)

    @app.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(gauges.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        policy = "default-src 'none'; style-src 'unsafe-inline'"
        return HTMLResponse(_page(app.openapi()), headers={"Content-Security-Policy": policy})


class _StrictRequest(Request):
    """A body that is read strictly: no NaN, no key twice."""

    async def json(self) -> Any:
        try:
            return parse_json(await self.body())
        except JsonError as error:
            raise HTTPException(422, f"the body cannot be read: {error}") from None


class _StrictRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            if request.method == "POST":
                _require_json(request)
            return await handler(_StrictRequest(request.scope, request.receive))

        return strict


def _require_json(request: Request) -> None:
    """Refuse another media type, which a web page could post unasked, and a compressed body, which could be endless."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise HTTPException(415, "expected Content-Type: application/json", {"Accept": "application/json"})
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise HTTPException(415, "expected a body without Content-Encoding", {"Accept-Encoding": "identity"})


async def _not_valid(_: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    return JSONResponse(refusal(error), 422)


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, AnyHTTPException):
        raise error
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = headers["Allow"].replace("GET", "GET, HEAD") + ", OPTIONS"
    elif request.scope["path"] == "*":
        headers["Allow"] = "GET, HEAD, OPTIONS, POST"
    if request.method == "OPTIONS" and "Allow" in headers:
        return Response(status_code=204, headers=headers)
    return refused(error.status_code, error.detail, headers)


def _page(schema: dict[str, Any]) -> str:
    """The OpenAPI description as a page that loads nothing: routes, then the shapes that they name."""
    parts = [
        f"<h1>{escape(schema['info']['title'])} {escape(schema['info']['version'])}</h1>",
        f"<p>{escape(schema['info']['description'])}</p>",
    ]
    parts.append('<p>For programs: <a href="/openapi.json">/openapi.json</a></p>')
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            title = f"{escape(method.upper())} {escape(path)}"
            parts.append(f"<h2>{title}</h2><p>{escape(route.get('summary', ''))}</p><ul>")
            given = route["responses"].items()
            parts += [f"<li>{escape(status)}: {escape(answer['description'])}</li>" for status, answer in given]
            parts.append("</ul>")
    for name, shape in schema.get("components", {}).get("schemas", {}).items():
        parts.append(f"<h3>{escape(name)}</h3><pre>{escape(json.dumps(shape, indent=1))}</pre>")
    style = (
        "body{font:16px/1.5 system-ui;max-width:50rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
        "pre{overflow:auto}"
    )
    head = f'<meta charset="utf-8"><title>CKD-EHR</title><style>{style}</style>'
    return f'<!doctype html><html lang="en">{head}{"".join(parts)}</html>'
