"""TensorFlow without its start-up notes."""

import os

__all__ = ["load_tensorflow_quietly"]


def load_tensorflow_quietly() -> None:
    """Import TensorFlow and look for a GPU once, with standard error closed.

    Its C++ side notes there that it found no GPU, whatever level its log is set to. TF_CPP_MIN_LOG_LEVEL=0 asks for
    the notes.
    """
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2") == "0":
        return
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
