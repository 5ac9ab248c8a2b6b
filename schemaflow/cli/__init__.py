"""The command line: the library, spoken. Each command has its twin function and loads TensorFlow only where it needs it."""

import gc

gc.set_threshold(100_000)  # imports make objects that stay: to look for garbage among them is a sixth of a start
