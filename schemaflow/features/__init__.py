"""Where the schema meets the layers: which tables there are, and one encoder for each kind of feature."""
