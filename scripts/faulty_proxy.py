"""An HTTP proxy on loopback that counts what passes, and fails in the ways in which servers and networks do.

Standard library only. For scripts/test_remote.py.
"""

import http.client
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PASS, REFUSE, ERROR, STALL, CUT, DROP = "pass", "refuse", "error", "stall", "cut", "drop"
"""What happens to a request: it passes; 403; 503; no answer; half an answer; done, and the answer is lost."""


class Proxy:
    """Passes requests on to a server at `port`. `plan(method, path, number)` says what happens to each."""

    def __init__(self, port, plan=None):
        self.target, self.plan = port, plan
        self.lock = threading.Lock()
        self.number = 0
        self.requests, self.failed, self.body_bytes = [], [], 0
        self.over = threading.Event()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.server = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_request(self):
                proxy.handle(self)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_request

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_):
                pass  # connections break here on purpose

        self.over.clear()
        self.server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self):
        """Nobody listens any more; requests under way break."""
        self.over.set()
        server, self.server = self.server, None
        if server:
            server.shutdown()
            server.server_close()

    def reset(self, plan=None):
        with self.lock:
            self.plan, self.number = plan, 0
            self.requests, self.failed, self.body_bytes = [], [], 0

    def handle(self, request):
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        method, path = request.command, request.path
        with self.lock:
            self.number += 1
            fate = self.plan(method, path, self.number) if self.plan else PASS
            self.requests.append((method, path))
            if fate != PASS:
                self.failed.append((fate, method, path))
        request.close_connection = request.close_connection or fate != PASS
        if self.over.is_set():
            return self.hang_up(request)
        if fate == ERROR:
            return self.answer(request, 503, b"<Error><Code>SlowDown</Code></Error>")
        if fate == REFUSE:
            return self.answer(request, 403, b"<Error><Code>InvalidAccessKeyId</Code></Error>")
        if fate == STALL:
            self.over.wait(30)
            return self.hang_up(request)
        connection = http.client.HTTPConnection("127.0.0.1", self.target, timeout=60)
        headers = {name: value for name, value in request.headers.items() if name.lower() != "connection"}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if fate == DROP or self.over.is_set():
            return self.hang_up(request)
        request.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "server", "date"):
                request.send_header(name, value)
        length = answer.getheader("Content-Length") if method == "HEAD" else str(len(content))
        request.send_header("Content-Length", length or "0")
        request.end_headers()
        if fate == CUT:
            content = content[:len(content) // 2]
        request.wfile.write(content)
        request.wfile.flush()
        with self.lock:
            self.body_bytes += len(content)
        if fate == CUT:
            self.hang_up(request)

    def answer(self, request, status, content):
        request.send_response(status)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    @staticmethod
    def hang_up(request):
        request.close_connection = True
        try:
            request.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
