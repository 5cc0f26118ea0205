"""How a question about a similarity matrix is answered: `plan` chooses, the others compute."""
