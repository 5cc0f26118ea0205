"""How much of everything is read at most. What lies above is refused with a message that names the bound."""

MOST_SIDE = 4096  # pixels a side of the squares that encoders see
MOST_UNPACKED = 64 << 20  # bytes of one compressed text
MOST_COLUMNS = 20_000  # columns of a table
MOST_LISTED = 32  # texts in a list of a JSON object that become columns; a longer list is one text
MOST_NESTED = 4_000  # values of one JSON object
MOST_STREAMED = 50_000_000  # rows of a stream without a limit
