"""A bundle over HTTP: TensorFlow Serving's REST form, recommendations by raw values, and a page to look with."""

from schemaflow.errors import ConfigError

try:
    import fastapi  # noqa: F401
    import prometheus_client  # noqa: F401
    import uvicorn  # noqa: F401
except ImportError as reason:
    raise ConfigError(f'serving needs {reason.name}; install it with pip install "schemaflow[serve]"') from None

from schemaflow.serving.app import application
from schemaflow.serving.options import ServeOptions
from schemaflow.serving.server import serve

__all__ = ["ServeOptions", "application", "serve"]
