"""Ports of this machine."""

from __future__ import annotations

import socket

from nearfar.errors import InputError


def check_address(host: str, port: int) -> None:
    """Raises InputError where the port is taken or may not be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as error:
            raise InputError(f"The port {port} of {host} cannot be used: {error.strerror}.",
                             f"Give another: --port {port + 1}.") from error  # fmt: skip
