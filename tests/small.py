"""What methods are trained with in suites over all methods: small images, and a small transformer for those that look
into the layers of a text encoder."""

from nearfar.methods import get

SMALL = {"text_encoder": "tiny", "text_length": 24, "vocabulary": 300}
IMAGES = {"image_size": 16}


def encoder_of(slug):
    """Options of the training for the encoder of a method on the data that `data_of` gives it."""
    method = get(slug)
    roles = frozenset().union(*method.needs)
    pictured = roles & {"image", "pair", "any"} and not roles & {"bag"} and method.target != "numbers"
    return SMALL if method.layered else IMAGES if pictured else {}
