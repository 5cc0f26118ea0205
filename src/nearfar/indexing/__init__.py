"""A searchable folder of vectors: LanceDB tables that know which model they belong to."""

from nearfar.indexing.building import build_index
from nearfar.indexing.index import Index, is_index, open_index
from nearfar.indexing.stored import HIDDEN

__all__ = ["HIDDEN", "Index", "build_index", "is_index", "open_index"]
