"""How much of everything is read at most. What lies above is refused with a message that names the bound."""

MOST_SIDE = 4096  # pixels a side of the squares that encoders see
MOST_UNPACKED = 64 << 20  # bytes of one compressed text
MOST_COLUMNS = 20_000  # columns of a table
MOST_NESTED = 4_000  # texts in one list of a JSON object, which become columns
