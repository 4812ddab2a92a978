"""Hosts of a test's own: network namespaces, each with a name of its own and a cable to us that can be pulled.

Linux alone has them, and root alone may make them. What a server here offers on 127.0.0.1 a host reaches by a way.
"""

import secrets
import shutil
import subprocess
import sys
from contextlib import ExitStack

import pytest

from tests.proxy import Proxy

AS_ITS_HOSTNAME = 'hostname "$0" && exec "$@"'


class Host:
    """A machine as far as network and hostname go; files and processes are ours. As a context manager it ends."""

    def __init__(self, name):
        self.name = name
        number = secrets.randbelow(2**14) * 8
        # RFC 2544 keeps 198.18.0.0/15 for tests of networks; each host has four addresses of it.
        at = f"198.{18 + number // 2**16}.{number // 256 % 256}"
        self.address, self._own_address = f"{at}.{number % 256 + 1}", f"{at}.{number % 256 + 2}"
        self._namespace = f"djtasks-{name}-{number}"
        self._cable = f"djt{number}"
        self._stack = ExitStack()

    def __enter__(self):
        require_namespaces()
        ip("netns", "add", self._namespace)
        self._stack.callback(ip, "netns", "delete", self._namespace)
        peer = ("peer", "name", "eth0", "netns", self._namespace)
        ip("link", "add", self._cable, "type", "veth", *peer)
        ip("address", "add", f"{self.address}/30", "dev", self._cable)
        ip("-n", self._namespace, "address", "add", f"{self._own_address}/30", "dev", "eth0")
        ip("-n", self._namespace, "link", "set", "lo", "up")
        ip("-n", self._namespace, "link", "set", "eth0", "up")
        self.plug()
        return self

    def __exit__(self, *_):
        self._stack.close()

    def command(self, *arguments):
        """What starts a program there; the process that is started becomes that program."""
        enter = ["ip", "netns", "exec", self._namespace, "unshare", "--uts"]
        return [*enter, "sh", "-c", AS_ITS_HOSTNAME, self.name, *map(str, arguments)]

    def way_to(self, host, port):
        """An address and a port at which the host reaches this server of ours."""
        way = Proxy(host, port, listens_at=self.address)
        way.open()
        self._stack.callback(way.close)
        return self.address, way.port

    def pull(self):
        """Pull the cable: nothing comes through, and neither end is told."""
        ip("link", "set", self._cable, "down")

    def plug(self):
        """Put the cable in again: what was sent meanwhile is sent again by who still wants it."""
        ip("link", "set", self._cable, "up")


def require_namespaces():
    """Skip the test where hosts cannot be made: that takes a Linux and root, which few have who build."""
    if sys.platform != "linux":
        pytest.skip("network namespaces are of Linux")
    for program in ("ip", "unshare", "hostname"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} is installed. `apt-get install iproute2 util-linux hostname`")
    tried = subprocess.run(["unshare", "--net", "--uts", "ip", "link"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"only root may make network namespaces: {tried.stderr.strip()}")


def ip(*arguments):
    done = subprocess.run(["ip", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(map(str, arguments))}: {done.stderr}"
