"""The progress bar of `nearfar.progress`, by its former name."""

from nearfar.progress import track

__all__ = ["track"]
