"""What methods that look into the layers of a text encoder are trained with in suites over all methods."""

SMALL = {"text_encoder": "tiny", "text_length": 24, "vocabulary": 300}
LAYERED = ("cross-encoder", "cvib", "dse", "moe-embeddings")


def encoder_of(slug):
    """Options of the training for the encoder of a method."""
    return SMALL if slug in LAYERED else {}
