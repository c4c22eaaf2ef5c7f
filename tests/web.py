"""A web server on the loopback interface that asks for a password."""

import base64
import contextlib
import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

USER, PASSWORD = "reader-of-images", "pa55-that-nobody-sees"


class _Handler(SimpleHTTPRequestHandler):
    def do_GET(self):
        self._answer(super().do_GET)

    def do_HEAD(self):
        self._answer(super().do_HEAD)

    def _answer(self, serve):
        given = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.server.is_broken or self.headers.get("Authorization") != f"Basic {given}":
            self.send_error(503 if self.server.is_broken else 401)
            return
        serve()

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def served(folder):
    """Serve a folder; yields the server, with `url` of the folder, password included, and `is_broken`."""
    handler = functools.partial(_Handler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.is_broken = False
        server.place = f"127.0.0.1:{server.server_port}"
        server.url = f"http://{USER}:{PASSWORD}@{server.place}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
