"""Keras's training as a Rich progress bar."""

from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

__all__ = ["ProgressBar"]


class ProgressBar(keras.callbacks.Callback):
    """One bar for the whole training, with the epoch's running mean loss."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task: TaskID | None = None

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: D102 - Keras's signature
        total = self.params["epochs"] * self.params["steps"] if self.params.get("steps") else None
        self._task = self._progress.add_task("training", total=total, loss="")
        self._progress.start()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: D102
        assert self._task is not None
        self._progress.update(self._task, advance=1, loss=f"loss {logs['loss']:.4f}" if logs else "")

    def on_train_end(self, logs: Any = None) -> None:  # noqa: D102
        self._progress.stop()

    def close(self) -> None:
        """Give the terminal back where training ended early."""
        self._progress.stop()
