"""Refuse every connection that leaves the machine. Python imports this at start-up when its folder
is on PYTHONPATH, so kernels and other child processes of the tests are covered too."""

import socket

LOCAL = (None, "", "localhost", "::1", "0.0.0.0")


def _refuse_if_far(host):
    if isinstance(host, bytes):
        host = host.decode()
    if host not in LOCAL and not host.startswith("127."):
        raise OSError(f"the tests allow no connection to {host}")


def _guard_socket(method, address_at):
    original = getattr(socket.socket, method)

    def guarded(self, *arguments):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _refuse_if_far(arguments[address_at][0])
        return original(self, *arguments)

    setattr(socket.socket, method, guarded)


def _guard_name_service():
    original = socket.getaddrinfo

    def guarded(host, *arguments, **options):
        _refuse_if_far(host)
        return original(host, *arguments, **options)

    socket.getaddrinfo = guarded


_guard_socket("connect", 0)
_guard_socket("connect_ex", 0)
_guard_socket("sendto", -1)
_guard_name_service()
