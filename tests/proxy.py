"""A TCP proxy that a test can close, open again, and cut."""

import contextlib
import socket
import threading
import time


class Proxy:
    """Forwards 127.0.0.1:`port` to a server while it is open; or that port of another address of ours."""

    def __init__(self, host, port, listens_at="127.0.0.1"):
        self.target = (host, port)
        self._address = listens_at
        with socket.socket() as probe:
            probe.bind((self._address, 0))
            self.port = probe.getsockname()[1]
        self.latency = 0.0  # seconds that each piece of data is held back, in both directions
        self._listener = None
        self._pairs = []  # connections: the caller's socket and ours to the server
        self._muted = frozenset()  # sockets that nothing more is sent on

    def open(self):
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((self._address, self.port))
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
        self._muted = frozenset(each for pair in self._pairs for each in pair)

    def mute_answers(self):
        """Forward what is asked on the connections that there are, and no answer to it; new ones are taken."""
        self._muted |= {client for client, _ in self._pairs}

    def cut(self):
        """Cut all connections; new ones are taken."""
        for pair in list(self._pairs):
            _end(*pair)

    def _accept(self, listener):
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        """Forward until one of the two ends has closed."""
        try:
            server = socket.create_connection(self.target)
        except OSError:  # nobody listens there just now
            client.close()
            return
        pair = (client, server)
        with client, server:
            for each in pair:
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs.append(pair)
            back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
            back.start()
            self._pump(client, server)
            back.join()
            self._pairs.remove(pair)
            self._muted -= set(pair)

    def _pump(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self.latency:
                    time.sleep(self.latency)
                if sink not in self._muted:
                    sink.sendall(data)
        _end(source, sink)


def _end(*sockets):
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
