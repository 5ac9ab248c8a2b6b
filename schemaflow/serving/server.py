"""A server of one bundle."""

import copy
import gc
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.config import LOGGING_CONFIG

from schemaflow.serving.app import application
from schemaflow.serving.options import ServeOptions

__all__ = ["serve"]


def serve(
    bundle: str | Path,
    name: str = "model",
    *,
    host: str = "127.0.0.1",
    port: int = 8501,
    options: ServeOptions | None = None,
) -> None:
    """Serve a bundle over HTTP until the process is told to end; requests that are being answered are answered first.

    Args:
        bundle: The bundle. A newer one that is exported there takes its place.
        name: Of the model, in TensorFlow Serving's paths.
        host: The address to listen at; `0.0.0.0` for all of the machine's.
        port: 0 takes any that is free, and says which.
        options: Limits and pace.

    Raises:
        BundleError: There is no bundle there, or it does not answer.
    """
    limits = ServeOptions() if options is None else options
    gc.freeze()  # what is imported stays: to look for garbage is then to look through the bundles
    app = application(bundle, name, limits)
    uvicorn.run(
        app, host=host, port=port, access_log=False, limit_concurrency=limits.max_connections, log_config=_logging()
    )


def _logging() -> dict[str, Any]:
    """Return uvicorn's way of logging, and ours with it."""
    config = copy.deepcopy(LOGGING_CONFIG)
    config["loggers"]["schemaflow"] = config["loggers"]["uvicorn"]
    return config
