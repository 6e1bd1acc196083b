"""Refuse every connection that leaves the machine. Python imports this at start-up when its folder
is on PYTHONPATH, so kernels and other child processes of the tests are covered too."""

import socket


def _guard(method_name):
    original = getattr(socket.socket, method_name)

    def guarded(self, address, *rest):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = str(address[0])
            if not (host.startswith("127.") or host in ("localhost", "::1", "")):
                raise OSError(f"the tests allow no connection to {host}")
        return original(self, address, *rest)

    setattr(socket.socket, method_name, guarded)


for _name in ("connect", "connect_ex"):
    _guard(_name)
