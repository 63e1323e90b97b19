"""A web server on this machine that answers as well or as badly as a test wants."""

import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

Answer = Callable[[BaseHTTPRequestHandler], None]


def good(content: bytes, kind: str = "application/octet-stream") -> Answer:
    return partial(content, length=len(content), kind=kind)


def partial(content: bytes, length: int, kind: str = "application/octet-stream") -> Answer:
    """Promise `length` bytes, send `content`, and close the connection."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(length))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def resumable(content: bytes, stop_at: int | None = None) -> Answer:
    """Send what is asked for of `content`, as servers of files do that know ranges; break off at byte `stop_at`."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        first = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if first >= len(content):
            handler.send_error(416)
            return
        handler.send_response(206 if first else 200)
        handler.send_header("Content-Length", str(len(content) - first))
        handler.end_headers()
        handler.wfile.write(content[first:stop_at])
        if handler.command == "GET":
            handler.server.sent.append((first, stop_at or len(content)))

    return answer


def stalled(content: bytes, length: int) -> Answer:
    """Promise `length` bytes, send `content`, and no more."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        partial(content, length)(handler)
        hang(handler)

    return answer


def dripping(content: bytes) -> Answer:
    """Send a byte now and then."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        partial(b"", length=len(content))(handler)
        for byte in content:
            time.sleep(0.2)
            handler.wfile.write(bytes([byte]))

    return answer


def hang(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(30)


class CourseServer(ThreadingHTTPServer):
    """Use it in a ``with`` statement. It answers GET and HEAD as `answers` says, by path, else with 404."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.requests: list[str] = []
        self.sent: list[tuple[int, int]] = []  # first byte and end of what `resumable` has sent

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def downloads(self, path: str) -> int:
        return self.requests.count(f"GET {path}")

    def handle_error(self, request, client_address) -> None:
        """Say nothing when a client has gone away, as those do that a test kills."""

    def __enter__(self) -> "CourseServer":
        Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.shutdown()
        self.socket.close()


class Handler(BaseHTTPRequestHandler):
    server: CourseServer

    def do_GET(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        answer = self.server.answers.get(self.path)
        if answer:
            answer(self)
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, *_) -> None:
        pass
