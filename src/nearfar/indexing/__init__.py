"""A searchable folder of vectors: LanceDB tables that know which model they belong to."""

from nearfar.indexing.index import HIDDEN, Index, build_index, is_index, open_index

__all__ = ["HIDDEN", "Index", "build_index", "is_index", "open_index"]
