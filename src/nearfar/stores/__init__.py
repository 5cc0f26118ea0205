"""Files and folders on object stores, by the URLs of fsspec (s3://bucket/table.parquet, gs://, memory://...): read by
way of a copy in the cache, which is made anew where they have changed (`copies`); outputs that are sent when they are
whole (`sending`); folders of runs and comparisons that are sent as they grow (`growing`)."""

from nearfar.stores.access import Store, below, is_url
from nearfar.stores.copies import KIND, STATE, copy_of, fetched, local, named, on_disk, origin
from nearfar.stores.growing import mirrored
from nearfar.stores.sending import appended, written

__all__ = [
    "KIND",
    "STATE",
    "Store",
    "appended",
    "below",
    "copy_of",
    "fetched",
    "is_url",
    "local",
    "mirrored",
    "named",
    "on_disk",
    "origin",
    "written",
]
