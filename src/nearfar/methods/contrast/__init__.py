"""What contrastive methods share: `shared` by all, `views` by methods of views, `pairs` by methods of pairs."""

from nearfar.methods.contrast.pairs import PairContrast
from nearfar.methods.contrast.shared import Contrast, part_name
from nearfar.methods.contrast.views import (
    ViewContrast,
    against_targets,
    auto_momentum,
    check_plan,
    default_views,
    forward_views,
)

__all__ = [
    "Contrast",
    "PairContrast",
    "ViewContrast",
    "against_targets",
    "auto_momentum",
    "check_plan",
    "default_views",
    "forward_views",
    "part_name",
]
