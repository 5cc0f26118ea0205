"""What makes the data of the checks, from packages, once."""
