"""Tables to encoded batches: pyarrow to NumPy to tf.data."""
