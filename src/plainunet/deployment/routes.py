"""The routes of the HTTP server, over a `Service`.

A page or other routes may be mounted on the application, whose `state.service` predicts.
"""

import base64
import hmac
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import plainunet
from plainunet.config import ServeOptions
from plainunet.deployment.answers import OutputName, as_json, choose_output
from plainunet.deployment.batching import Model
from plainunet.deployment.service import MOST_FILES, MOST_IMAGES, Load, Prediction, Service
from plainunet.deployment.uploads import MOST_PAGES, RefusedError, Upload
from plainunet.prediction.predictor import Predictor

NAME = "plainunet"
"""Name of the model in the Open Inference Protocol."""
_DIGEST = "Plainunet-Model"
_ID = "X-Request-Id"
_JSON = "application/json"
_log = logging.getLogger("plainunet.serve")
_bearer = HTTPBearer(auto_error=False, description="The token of the server, if it has one.")

# a grey PNG of 1 x 1 pixel
_EXAMPLE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
_FILE = {"type": "string", "format": "binary"}
_CODED = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "description": "The image file as base64."},
        "name": {"type": "string", "description": "Its name, for lists."},
    },
    "example": {"file": _EXAMPLE, "name": "pixel.png"},
}

_SOME = {"type": "array", "minItems": 1, "maxItems": MOST_FILES}


def _form(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": ["file"], "properties": {"file": schema}}


_ONE = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": _form(_FILE)},
            _JSON: {"schema": _CODED},
            **{f"image/{kind}": {"schema": _FILE} for kind in ("png", "jpeg", "tiff")},
            "application/octet-stream": {"schema": _FILE},
        },
    }
}
_SEVERAL = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": _form({**_SOME, "items": _FILE})},
            _JSON: {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {"files": {**_SOME, "items": _CODED}},
                    "example": {"files": [_CODED["example"]]},
                }
            },
        },
    }
}
_WEIGHTS = {
    "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": _FILE}}}
}
_RLE_EXAMPLE = {
    "model": "9f2c...",
    "size": [2, 3],
    "classes": [
        {"id": 0, "name": "background", "pixels": 5, "share": 0.8333},
        {
            "id": 1,
            "name": "car",
            "pixels": 1,
            "share": 0.1667,
            "rle": {"size": [2, 3], "counts": "014"},
        },
    ],
}
_MASKS = {
    "image/png": {"schema": _FILE},
    "image/jpeg": {"schema": _FILE},
    "image/tiff": {"schema": _FILE},
    "application/geo+json": {"schema": {"type": "object"}},
    _JSON: {"schema": {"type": "object"}, "example": _RLE_EXAMPLE},
}


class Problem(BaseModel):
    """The body of every error."""

    code: str
    """Short name of the reason, for programs."""
    message: str
    """The reason and the fix, for people."""


_MEANINGS = {
    400: "The body or the image is damaged.",
    401: "The token is missing or wrong.",
    403: "The server was started without a token.",
    406: "No format of the Accept header is known.",
    408: "The request came too slowly.",
    409: "Another model is being loaded.",
    413: "The request, or an image, is too large.",
    415: "The file is not an image of a supported format.",
    422: "The request, or the image, cannot be used.",
    503: "The queue is full, or the model not ready: try again after Retry-After.",
    504: "The time of the request is over.",
}


def _errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    return {code: {"model": Problem, "description": _MEANINGS[code]} for code in codes}


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _require_token(
    request: Request,
    given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None,
) -> None:
    """Refuse a request without the token, if there is one."""
    token = _service(request).options.token
    if token is None:
        return
    # as it was sent: starlette decodes headers as Latin-1
    sent = given.credentials.encode("latin-1", "replace") if given else b""
    if not hmac.compare_digest(sent, token.encode()):
        raise RefusedError(401, "unauthorized", "Send the token: Authorization: Bearer TOKEN.")


def _require_known(request: Request) -> None:
    """Refuse parameters of the query that the route does not have."""
    known = [each.alias for each in request.scope["route"].dependant.query_params]
    for name in request.query_params:
        if name not in known:
            has = f"has {' and '.join(known)}" if known else "has none"
            message = f"{name[:80]}: no parameter of {request.url.path}, which {has}."
            raise RefusedError(422, "bad-parameter", message)


_open = APIRouter()
_v1 = APIRouter(prefix="/v1", dependencies=[Depends(_require_token), Depends(_require_known)])
_v2 = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])
_Service = Annotated[Service, Depends(_service)]
_Output = Annotated[
    OutputName | None,
    Query(description="Format of the answer. Default: by the Accept header, else mask."),
]


@_v1.post(
    "/predict",
    response_class=Response,
    openapi_extra=_ONE,
    responses={
        200: {"description": "The mask, in the format asked for.", "content": _MASKS},
        **_errors(400, 401, 406, 408, 413, 415, 422, 503, 504),
    },
)
async def predict(
    request: Request,
    service: _Service,
    output: _Output = None,
    page: Annotated[
        int | None, Query(ge=0, lt=MOST_PAGES, description="Page of a TIFF stack, from 0.")
    ] = None,
) -> Response:
    """Predict the mask of an image, by default as a palette PNG of class ids."""
    name = choose_output(output, request.headers.get("accept", ""))

    async def answer(uploads: list[Upload]) -> Prediction:
        return await service.predict(uploads[0], name, page)

    done = await service.handle(request, 1, answer)
    return Response(
        done.answer.content, media_type=done.answer.media_type, headers={_DIGEST: done.digest}
    )


@_v1.post(
    "/predict/batch",
    response_class=Response,
    openapi_extra=_SEVERAL,
    responses={
        200: {
            "description": "A result for each image, in the order of the files.",
            "content": {_JSON: {"schema": {"type": "object"}}},
        },
        **_errors(400, 401, 408, 413, 415, 422, 503, 504),
    },
)
async def predict_batch(
    request: Request,
    service: _Service,
    output: Annotated[OutputName, Query(description="Format of each result.")] = "rle",
) -> Response:
    """Predict the masks of several images; an image that fails, fails alone.

    A result has the image's `name`, a `status` as of a request of its own, the `model`, and
    `content`: JSON, or base64 of a file of the type `media_type`. Of an image that failed, it has
    `code` and `message` instead.
    """

    async def answer(uploads: list[Upload]) -> list[dict[str, Any]]:
        done = await service.predict_all(uploads, output)
        return [_result(each, upload.name) for each, upload in zip(done, uploads, strict=True)]

    results = await service.handle(request, MOST_FILES, answer)
    content = await anyio.to_thread.run_sync(as_json, {"results": results})
    return Response(content, media_type=_JSON)


def _result(done: Prediction | RefusedError, name: str) -> dict[str, Any]:
    """A result of a request of several images."""
    if isinstance(done, RefusedError):
        problem = Problem(code=done.code, message=done.message)
        return {"name": name, "status": done.status, **problem.model_dump()}
    content, media_type = done.answer
    return {
        "name": name,
        "status": 200,
        "model": done.digest,
        "media_type": media_type,
        "content": json.loads(content)
        if media_type.endswith("json")
        else base64.b64encode(content).decode(),
    }


@_v1.get("/model", responses=_errors(401))
async def show_model(service: _Service) -> dict[str, Any]:
    """The model card: classes, input, threshold, scores with their protocol; and the limits."""
    return describe(service.model, service.options)


@_v1.post(
    "/model",
    openapi_extra=_WEIGHTS,
    responses=_errors(400, 401, 403, 408, 409, 413, 422, 503),
)
async def swap_model(request: Request, service: _Service) -> dict[str, Any]:
    """Replace the model by a checkpoint (.safetensors) or an exported file (.onnx) in the body.

    Requests that are being answered are finished, none is refused. The answer comes when all
    processes use the model. Needs the token.
    """
    if service.options.token is None:
        raise RefusedError(
            403, "no-token", "Start the server with --token, or PLAINUNET_TOKEN, to replace models."
        )
    former = service.model.digest
    model = await service.receive_model(request)
    return {"digest": model.digest, "former": former}


@_open.get("/healthz", responses=_errors(503))
async def health(service: _Service) -> dict[str, str]:
    """Whether the process can predict; if not, restart it."""
    service.require_alive()
    return {"status": "ok"}


@_open.get("/readyz", responses=_errors(503))
async def readiness(service: _Service) -> dict[str, str]:
    """Whether the model has been warmed up, and requests are accepted."""
    service.require_ready()
    return {"status": "ready"}


@_open.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(service: _Service) -> Response:
    """Metrics in Prometheus' text format."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@_v2.get("")
async def show_server() -> dict[str, Any]:
    """Name and version of the server."""
    return {"name": NAME, "version": plainunet.__version__, "extensions": []}


@_v2.get("/health/live", responses=_errors(503))
async def live(service: _Service) -> dict[str, bool]:
    """As `/healthz`."""
    service.require_alive()
    return {"live": True}


@_v2.get("/health/ready", responses=_errors(503))
@_v2.get(f"/models/{NAME}/ready", responses=_errors(503), operation_id="model_ready")
async def ready(service: _Service) -> dict[str, bool]:
    """As `/readyz`."""
    service.require_ready()
    return {"ready": True}


@_v2.get(f"/models/{NAME}", dependencies=[Depends(_require_token)], responses=_errors(401))
async def show_metadata(service: _Service) -> dict[str, Any]:
    """Inputs and outputs of the model; images are predicted by `/v1/predict`."""
    return {
        "name": NAME,
        "versions": [service.model.digest],
        "platform": f"plainunet_{service.model.predictor.backend}",
        "inputs": [{"name": "file", "datatype": "BYTES", "shape": [1]}],
        "outputs": [{"name": "mask", "datatype": "UINT8", "shape": [-1, -1]}],
    }


def describe(model: Model, options: ServeOptions) -> dict[str, Any]:
    """Describe a model and the limits of a server."""
    predictor, card = model.predictor, model.predictor.card
    training = {key: card.training[key] for key in ("areas", "dtypes") if key in card.training}
    return {
        "digest": model.digest,
        "classes": [
            {"id": number, "name": name, "color": list(color)}
            for number, (name, color) in enumerate(zip(card.class_names, card.colors, strict=True))
        ],
        "input": {
            "channels": predictor.in_channels,
            "size": card.size,
            "factor": card.factor,
            **training,
        },
        "threshold": card.threshold if len(card.class_names) == 2 else None,
        "tta": card.tta,
        "scales": card.scales,
        "min_object": card.min_object,
        "fill_holes": card.fill_holes,
        "scores": card.scores,
        "versions": card.versions,
        "backend": predictor.backend,
        "device": str(predictor.device),
        "limits": {
            "bytes": options.max_bytes,
            "pixels": options.max_pixels,
            "queue_pixels": options.max_queue_pixels,
            "queue_images": MOST_IMAGES,
            "files": MOST_FILES,
            "pages": MOST_PAGES,
            "seconds": options.timeout,
        },
    }


def make_app(
    predictor: Predictor, options: ServeOptions, load: Load, shared: Path | None = None
) -> FastAPI:
    """Make the application.

    Args:
        predictor: The model.
        options: Limits and the token.
        load: Loads a new model from a file that was sent.
        shared: Folder through which several processes share new models; None: there are none.

    Returns:
        The application; its `state.service` is the `Service`.
    """
    service = Service(Model.of(predictor), options, load, shared)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="plainunet",
        description="Semantic segmentation: images in, masks out.",
        version=plainunet.__version__,
        lifespan=lifespan,
        # their scripts come from elsewhere; the page works offline
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    for router in (_open, _v1, _v2):
        app.include_router(router)
    app.add_middleware(_Observed, service=service)
    app.add_exception_handler(RefusedError, _on_refused)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    return app


def _problem(status: int, code: str, message: str, headers: dict[str, str]) -> Response:
    content = Problem(code=code, message=message).model_dump_json()
    return Response(content, status, headers, _JSON)


async def _on_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    _service(request).metrics.rejected.labels(error.code).inc()
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _problem(error.status, error.code, error.message, headers)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    reasons = [f"{each['loc'][-1]}: {each['msg']}" for each in error.errors()]
    return await _on_refused(request, RefusedError(422, "bad-parameter", "; ".join(reasons)))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "error")
    headers = dict(error.headers or {})
    if error.status_code == 405:  # FastAPI names the methods of one route of several
        routes = [each for router in (_open, _v1, _v2) for each in router.routes]
        own = [each for each in routes if getattr(each, "path", "") == request.url.path]
        methods = {method for each in own for method in getattr(each, "methods", ())}
        headers["Allow"] = ", ".join(sorted(methods))
    return _problem(error.status_code, code, str(error.detail), headers)


class _Observed:
    """Measures and logs each request, and adds the model's digest and an id to its answer."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, number, status = time.monotonic(), uuid.uuid4().hex, 0
        root = scope.get("root_path", "")

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", []), (_ID.lower().encode(), number.encode())]
                if _DIGEST.lower().encode() not in dict(headers):
                    digest = self._service.model.digest
                    headers.append((_DIGEST.lower().encode(), digest.encode()))
                if self._service.stopping.is_set():  # else the client would use it once more
                    headers.append((b"connection", b"close"))
                message["headers"] = headers
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        except Exception:
            _log.exception("a bug in plainunet", extra={"fields": {"id": number}})
            if not status:
                message = "A bug in plainunet; the log of the server has its traceback."
                await _problem(500, "bug", message, {})(scope, receive, send_marked)
        finally:
            seconds = time.monotonic() - begun
            # the parts of a mounted page are many, and are not logged by default
            mounted = scope.get("root_path", "").removeprefix(root)
            route = mounted or getattr(scope.get("route"), "path", "other")
            self._service.metrics.seconds.labels(route, str(status)).observe(seconds)
            fields = {"id": number, "route": route, "code": status, "seconds": round(seconds, 4)}
            level = logging.DEBUG if mounted else logging.INFO
            _log.log(level, "request", extra={"fields": fields})
