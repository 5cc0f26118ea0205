"""Scores of embeddings: pure functions on arrays first, tasks and references over them."""
