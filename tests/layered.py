"""What methods that look into the layers of a text encoder are trained with in suites over all methods."""

from nearfar.methods import get

SMALL = {"text_encoder": "tiny", "text_length": 24, "vocabulary": 300}


def encoder_of(slug):
    """Options of the training for the encoder of a method."""
    return SMALL if get(slug).layered else {}
