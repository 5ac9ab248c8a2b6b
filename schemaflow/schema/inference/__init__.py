"""A schema guessed from data: one pass over the tables, and a draft that says what it found."""
