"""Errors that a user can act on. Every message names what, where, what was found and how to mend it."""

import difflib
from collections.abc import Iterable


class NearfarError(Exception):
    """The work failed (exit code 1)."""

    def __init__(self, message: str, hint: str = ""):
        super().__init__(f"{message} {hint}".strip())
        self.message, self.hint = message, hint

    def __reduce__(self):
        return type(self), (self.message, self.hint)


class InputError(NearfarError, ValueError):
    """Wrong usage or wrong input (exit code 2)."""


def install(extra: str) -> str:
    """How to install what an extra of nearfar brings, from the registry and from a clone."""
    return f"Run: pip install 'nearfar[{extra}]', in a clone pip install '.[{extra}]'."


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """ " Did you mean 'x'?" for the nearest of `options`, or an empty string where none is near."""
    near = difflib.get_close_matches(name, list(options), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""
