"""The command line: the library, spoken. Each command has its twin function and loads TensorFlow only where it needs it."""
