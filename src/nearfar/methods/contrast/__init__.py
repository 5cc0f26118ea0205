"""What contrastive methods share: `shared` by all, `views` by methods of views, `copies` by those of copies of a text,
`pairs` by methods of pairs, `extra_terms` by those of them with a term beside their contrast, `multistage` by those in
stages of clusters."""

from nearfar.methods.contrast.copies import CopyContrast
from nearfar.methods.contrast.multistage import Multistage
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
    "CopyContrast",
    "Multistage",
    "PairContrast",
    "ViewContrast",
    "against_targets",
    "auto_momentum",
    "check_plan",
    "default_views",
    "forward_views",
    "part_name",
]
