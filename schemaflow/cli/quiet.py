"""TensorFlow without its start-up notes."""

import os

__all__ = ["load_tensorflow_quietly"]


def load_tensorflow_quietly() -> None:
    """Import TensorFlow and look for a GPU once, with standard error closed.

    Its C++ side notes there that it found no GPU, before any setting for its log is read. Set TF_CPP_MIN_LOG_LEVEL to
    see the notes.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import tensorflow as tf

        tf.config.list_physical_devices("GPU")
        tf.constant(0)  # makes the devices, and with them the last of the notes
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
