"""One archive of exactly what was judged: the manifest of its files, its card, its bytes."""
