"""The commands, run as a user runs them."""

import gc
import io
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack, chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from schemaflow.cli import app

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Done:
    """What came of a command."""

    returncode: int
    stdout: str
    stderr: str


def schemaflow(*arguments: object, cwd: Path = ROOT, **environment: str) -> Done:
    """Run `schemaflow ARGUMENTS…` from a folder, in this process: one of its own would load TensorFlow anew."""
    hidden = ("TF_CPP_MIN_LOG_LEVEL", "SCHEMAFLOW_DATA")
    inherited: Mapping[str, str] = {name: value for name, value in os.environ.items() if name not in hidden}
    out, err, code = io.StringIO(), io.StringIO(), 0
    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, {**inherited, "COLUMNS": "200", **environment}, clear=True))
        stack.enter_context(patch.object(sys, "argv", ["schemaflow", *map(str, arguments)]))
        for it in (chdir(cwd), redirect_stdout(out), redirect_stderr(err)):
            stack.enter_context(it)
        vars(app.out).pop("console", None)  # as wide as this run's terminal
        try:
            app.main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0
        finally:
            vars(app.out).pop("console", None)
            gc.unfreeze()
    return Done(code, out.getvalue(), err.getvalue())
