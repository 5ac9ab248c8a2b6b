"""The routes of a server."""

import asyncio
import base64
import contextlib
import hashlib
import json
import math
import re
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from schemaflow.errors import SchemaFlowError
from schemaflow.export import Recommendations
from schemaflow.serving.about import about
from schemaflow.serving.batching import Batcher
from schemaflow.serving.bundle import Served, ServedBundle
from schemaflow.serving.monitoring import Counted, Metrics
from schemaflow.serving.options import ServeOptions
from schemaflow.serving.requests import (
    Query,
    RecommendBody,
    SimilarBody,
    recommend_all,
    refuse_infinite,
    refuse_too_many,
    similar_to_all,
)
from schemaflow.serving.tensorflow_serving import call_of, document_of, metadata, run_all, status

__all__ = ["application"]

PAGE = Path(__file__).parent / "page.html"


def application(path: str | Path, name: str = "model", options: ServeOptions | None = None) -> FastAPI:
    """Return a bundle as an ASGI application.

    - `POST /v1/models/NAME:predict`, `GET /v1/models/NAME` and `/v1/models/NAME/metadata`: as TensorFlow Serving has them.
    - `POST /recommend` and `/similar`: raw values in, item ids and scores out; `GET /about`: what may be asked.
    - `GET /`: a page to look with. `GET /healthz`, `/metrics`: for who watches over it.

    A wrong request gets 400, 404, 413 or 422 and `{"error": …}`, a line for each mistake.

    Args:
        path: The bundle. When a newer one is renamed into its place, it takes over without a request lost.
        name: Of the model, in TensorFlow Serving's paths.
        options: Limits and pace.

    Raises:
        BundleError: There is no bundle at `path`, or it does not answer.
    """
    limits, metrics = ServeOptions() if options is None else options, Metrics()
    bundle = ServedBundle(path, metrics.reload)
    batcher = Batcher(limits.max_batch, limits.max_wait / 1000, limits.threads, metrics.batch)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watch = asyncio.create_task(_watch(bundle, limits.poll))
        yield
        watch.cancel()
        await asyncio.to_thread(batcher.close)

    # the pages of FastAPI that show the API load scripts from elsewhere; /openapi.json holds what they show
    app = FastAPI(title=f"SchemaFlow: {name}", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Counted, metrics=metrics)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, reason: HTTPException) -> Response:
        return _json({"error": reason.detail}, reason.status_code)

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> Response:
        return _json({"error": "the server failed; its log says why"}, 500)

    async def ask(served: Served, answer: Callable[..., Any], group: Hashable, question: Any, rows: int) -> Any:
        """Answer a question together with others of its kind, by the bundle that it was read for."""
        return await batcher.ask((answer, served.version, group), partial(answer, served.recommender), question, rows)

    # -- TensorFlow Serving's form --------------------------------------------------------------------------------

    def known(model: str) -> Served:
        if model != name:
            raise HTTPException(404, f'there is no model "{model}" here; it is called "{name}"')
        return bundle.current

    @app.post("/v1/models/{model}:predict")
    async def predict(model: str, request: Request) -> Response:
        served, document = known(model), await _document(request, limits)
        with _refusing(400):  # as TensorFlow Serving has it
            call = call_of(document, served.recommender, limits)
            found = await ask(served, run_all, call.group, call, call.rows)
        return _json(document_of(call, found))

    @app.get("/v1/models/{model}")
    async def model_status(model: str) -> Response:
        return _json(status(known(model).version))

    @app.get("/v1/models/{model}/metadata")
    async def model_metadata(model: str) -> Response:
        served = known(model)
        return _json(metadata(name, served.version, served.recommender.signatures))

    # -- by raw values --------------------------------------------------------------------------------------------

    @app.post("/recommend", openapi_extra=_takes(RecommendBody))
    async def recommend(request: Request) -> Response:
        served, document = bundle.current, await _document(request, limits)
        with _refusing(422):
            body = RecommendBody.read(document)
            query = Query.of(body, served.recommender, limits)
            found = await ask(served, recommend_all, query.group, query, query.rows)
        return await _found(served, found, body.describe)

    @app.post("/similar", openapi_extra=_takes(SimilarBody))
    async def similar(request: Request) -> Response:
        served, document = bundle.current, await _document(request, limits)
        with _refusing(422):
            body = SimilarBody.read(document)
            refuse_too_many("ids", len(body.ids), limits.max_rows, "max_rows")
            refuse_too_many("k", body.k, limits.max_k, "max_k")
            found = await ask(served, similar_to_all, body.k, body, len(body.ids))
        return await _found(served, found, body.describe)

    # -- for who looks --------------------------------------------------------------------------------------------

    page = PAGE.read_bytes()
    headers = {"Content-Security-Policy": _policy(page), "X-Content-Type-Options": "nosniff"}

    @app.get("/")
    async def look() -> Response:
        return Response(page, media_type="text/html; charset=utf-8", headers=headers)

    @app.get("/about")
    async def tell() -> Response:
        return _json(_plain({"name": name, **await asyncio.to_thread(about, bundle.current.recommender)}))

    @app.get("/healthz")
    async def health() -> Response:
        served = bundle.current
        return _json(
            {
                "status": "ok",
                "model": name,
                "version": served.version,
                "since": served.since.isoformat(timespec="seconds"),
                "schema": served.recommender.schema.fingerprint,
                "problem": bundle.problem,
            }
        )

    @app.get("/metrics")
    async def counted() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


async def _watch(bundle: ServedBundle, seconds: float) -> None:
    """Look for a newer bundle now and then."""
    while True:
        await asyncio.sleep(seconds)
        await asyncio.to_thread(bundle.refresh)


async def _document(request: Request, limits: ServeOptions) -> Any:
    """Return the JSON of a request, whatever type of content it says it has: TensorFlow Serving does not ask either."""
    said, body = request.headers.get("content-length", "0"), bytearray()
    too_large = HTTPException(413, f"the body has more than {limits.max_body} bytes (max_body); ask for less at a time")
    if said.isdecimal() and int(said) > limits.max_body:
        raise too_large
    async for chunk in request.stream():
        body += chunk
        if len(body) > limits.max_body:
            raise too_large
    try:
        return json.loads(bytes(body))
    except (ValueError, RecursionError) as reason:
        raise HTTPException(400, f"the body is no JSON: {reason}") from None


@contextlib.contextmanager
def _refusing(code: int) -> Iterator[None]:
    """Answer what is wrong with a request, a line for each mistake."""
    try:
        yield
    except SchemaFlowError as reason:
        raise HTTPException(code, "\n".join(reason.problems)) from None


async def _found(served: Served, found: Recommendations, describe: bool) -> Response:
    """Return an answer, with the items' raw features if asked for."""
    with _refusing(422):
        refuse_infinite(found)
    answer: dict[str, Any] = {"identifiers": found.identifiers, "scores": found.scores}
    if describe:
        ids = [it for row in found.identifiers for it in row]
        items = iter(await asyncio.to_thread(served.recommender.describe, ids))
        answer["items"] = [[_plain(next(items)) for _ in row] for row in found.identifiers]
    return _json(answer)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: null for a number that is none, text for a moment."""
    if isinstance(value, dict):
        return {key: _plain(it) for key, it in value.items()}
    if isinstance(value, list):
        return [_plain(it) for it in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int, type(None))) else str(value)


def _json(document: Any, code: int = 200) -> Response:
    return Response(json.dumps(document, separators=(",", ":")), code, media_type="application/json")


def _takes(body: Any) -> dict[str, Any]:
    """Return what the API's description says of a body."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": body.model_json_schema()}}}}


def _policy(page: bytes) -> str:
    """Return a policy by which a browser runs the page's own script and no other, whatever an item's title may hold."""
    found = {
        tag: base64.b64encode(hashlib.sha256(text).digest()).decode()
        for tag, text in re.findall(rb"<(script|style)>(.*?)</\1>", page, re.DOTALL)
    }
    return (
        f"default-src 'none'; connect-src 'self'; img-src data:; script-src 'sha256-{found[b'script']}';"
        f" style-src 'sha256-{found[b'style']}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
