"""A local HTTP server that answers as it is told, and remembers what it was asked."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep


@dataclass
class Answer:
    """How one request is answered: which file, by which tag, and what goes wrong.

    `cut` bytes into the body the connection breaks; `ranges` and `if_range` say whether those headers are heeded, and
    `place` is said as Content-Range instead of the truth. The body comes `step` bytes every `pause` seconds, and again
    and again where it is `endless`.
    """

    content: bytes = b''
    status: int = 200
    etag: str | None = '"first"'
    headers: dict[str, str | list[str]] = field(default_factory=dict)
    cut: int | None = None
    ranges: bool = True
    if_range: bool = True
    length: bool = True
    pause: float = 0.0
    step: int | None = None
    endless: bool = False
    place: str | None = None


class FileServer(ThreadingHTTPServer):
    """Gives the answers of `plan` one after another, and the last one for ever after."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), _Handler)
        self.plan: list[Answer] = []
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f'http://127.0.0.1:{self.server_address[1]}'

    def next(self) -> Answer:
        with self.lock:
            return self.plan.pop(0) if len(self.plan) > 1 else self.plan[0]

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    server: FileServer

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append((self.path, headers))
        answer = self.server.next()
        start = self._start(answer, headers)
        status = 206 if start is not None and answer.status == 200 else answer.status
        body = answer.content[start or 0 :]
        self.send_response(status)
        if status == 206:
            end = len(answer.content)
            self.send_header('Content-Range', answer.place or f'bytes {start}-{end - 1}/{end}')
        if answer.length:
            self.send_header('Content-Length', str(len(body)))
        if answer.etag:
            self.send_header('ETag', answer.etag)
        for name, values in answer.headers.items():
            for value in [values] if isinstance(values, str) else values:
                self.send_header(name, value)
        self.send_header('Connection', 'close')
        self.end_headers()
        self.close_connection = True
        self._send(body if answer.cut is None else body[: answer.cut], answer)

    def _start(self, answer: Answer, headers: dict[str, str]) -> int | None:
        if not answer.ranges or 'range' not in headers:
            return None
        if answer.if_range and headers.get('if-range') != answer.etag:
            return None
        return int(headers['range'].removeprefix('bytes=').rstrip('-'))

    def _send(self, body: bytes, answer: Answer) -> None:
        step = answer.step or (len(body) // 4 + 1 if answer.pause else len(body) + 1)
        again = True
        while again:
            for start in range(0, len(body), step):
                self.wfile.write(body[start : start + step])
                self.wfile.flush()
                sleep(answer.pause)
            again = answer.endless

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving() -> Iterator[FileServer]:
    server = FileServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
