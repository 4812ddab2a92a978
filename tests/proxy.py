"""A TCP proxy on loopback that a test can close, open again, and cut."""

import contextlib
import socket
import threading


class Proxy:
    """Forwards 127.0.0.1:`port` to a server while it is open."""

    def __init__(self, host, port):
        self.target = (host, port)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._listener = None
        self._sockets = []
        self._muted = []

    def open(self):
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self.port))
        self._listener.listen(64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self):
        """Refuse new connections and cut those that there are."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.cut()

    def mute(self):
        """Forward nothing more on the connections that there are, and do not close them; new ones are taken."""
        self._muted = [*self._muted, *self._sockets]
        self._sockets = []

    def mute_answers(self):
        """Forward what is asked on the connections that there are, and no answer to it; new ones are taken."""
        self._muted = [*self._muted, *self._sockets[::2]]

    def cut(self):
        """Cut all connections; new ones are taken."""
        sockets, self._sockets, self._muted = [*self._sockets, *self._muted], [], []
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self, listener):
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(self.target)
                self._sockets += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if sink not in self._muted:
                    sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
