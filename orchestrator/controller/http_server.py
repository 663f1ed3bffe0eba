"""HTTP server of /metrics, /healthz and /readyz, for Prometheus and the kubelet."""

import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Returns the status code and the body
Route = Callable[[], tuple[int, bytes]]


def serve(port: int, routes: Mapping[str, Route]) -> ThreadingHTTPServer:
    """Serve `routes` (by path) on `port` in background threads and return the server. Port 0 selects any free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            route = routes.get(self.path.partition("?")[0])
            code, body = route() if route else (404, b"not found; available: " + " ".join(routes).encode() + b"\n")
            self.send_response(code)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing: the kubelet sends a probe every two seconds."""

    server = ThreadingHTTPServer(("", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return server
