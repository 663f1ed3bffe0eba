"""/metrics, /healthz and /readyz, for Prometheus and the kubelet."""

import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[], tuple[int, bytes]]


def serve(port: int, answers: Mapping[str, Answer]) -> ThreadingHTTPServer:
    """Answer on `port`, 0 for any that is free, in threads of its own. `answers`: path -> status and body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.get(self.path.partition("?")[0])
            code, body = answer() if answer else (404, b"there are " + " ".join(answers).encode() + b"\n")
            self.send_response(code)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """A probe every two seconds is no news."""

    server = ThreadingHTTPServer(("", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return server
