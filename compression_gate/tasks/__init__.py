"""How a model and its data enter, and the built-in ones."""
