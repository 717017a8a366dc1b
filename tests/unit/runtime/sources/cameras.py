"""Cameras on loopback: MJPEG over HTTP, and RTSP with JPEG in RTP, which stall, drop and come back when told to.

Each picture holds its number, so that a test knows which one it got.
"""

import socket
import struct
import threading
from contextlib import suppress

import cv2
import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 32, 64
_STEP = 16


def picture(number: int) -> NDArray[np.uint8]:
    """RGB; the number's two hexadecimal digits as the greens of the left and the right half; red 200, blue 0."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[..., 0] = 200
    pixels[:, : WIDTH // 2, 1] = number // 16 % 16 * _STEP
    pixels[:, WIDTH // 2 :, 1] = number % 16 * _STEP
    return pixels


def number_in(pixels: NDArray[np.uint8]) -> int:
    """The number, 0 to 255, of a picture that came through a lossy codec. Fails if it is not in RGB order."""
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert pixels[..., 0].mean() > 150
    assert pixels[..., 2].mean() < 50
    digits = [round(float(half.mean()) / _STEP) for half in (pixels[:, 8:24, 1], pixels[:, 40:56, 1])]
    return digits[0] * 16 + digits[1]


def jpeg(number: int) -> bytes:
    """The picture as a baseline JPEG."""
    return bytes(cv2.imencode(".jpg", picture(number)[:, :, ::-1])[1])


class Camera:
    """A server that sends numbered pictures to whoever asks, at a steady rate."""

    def __init__(self, *, rate_hz: float = 100.0) -> None:
        self._interval_s = 1.0 / rate_hz
        self._changed = threading.Condition()
        self._is_stalled = False
        self._is_closed = False
        self._connections: list[socket.socket] = []
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]
        self.sent = 0
        self.requests = 0

    def stall(self) -> None:
        """Keep connections open, send nothing."""
        with self._changed:
            self._is_stalled = True

    def resume(self) -> None:
        """Send again."""
        with self._changed:
            self._is_stalled = False
            self._changed.notify_all()

    def drop(self) -> None:
        """Close every connection."""
        with self._changed:
            connections, self._connections = self._connections, []
        for connection in connections:
            _shut(connection)

    def vanish(self) -> None:
        """Refuse connections, too."""
        _shut(self._listener)
        self.drop()

    def come_back(self) -> None:
        """Take connections again, on the same port."""
        self._listener = self._listen(self.port)

    def close(self) -> None:
        """For good."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self.vanish()

    def wait_until_sent(self, number: int) -> None:
        """Wait until so many pictures were sent in all."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.sent >= number, 10.0), f"sent {self.sent} of {number}"

    def wait_until_asked(self, times: int) -> None:
        """Wait until so many connections came in all."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.requests >= times, 10.0), f"{self.requests} of {times}"

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._changed:
                self._connections.append(connection)
                self.requests += 1
                self._changed.notify_all()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            self._answer(connection)
            while self._wait_for_next():
                self._send(connection, self.sent % 256)
                with self._changed:
                    self.sent += 1
                    self._changed.notify_all()
        except (OSError, ValueError):
            _shut(connection)

    def _wait_for_next(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed, self._interval_s)
            self._changed.wait_for(lambda: self._is_closed or not self._is_stalled)
            return not self._is_closed

    def _answer(self, connection: socket.socket) -> None:
        raise NotImplementedError

    def _send(self, connection: socket.socket, number: int) -> None:
        raise NotImplementedError


class MjpegCamera(Camera):
    """JPEGs in a multipart HTTP answer, as network cameras serve them."""

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}/video"

    def _answer(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as asked:
            while asked.readline().strip():
                pass
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\nConnection: close\r\n\r\n"
        )

    def _send(self, connection: socket.socket, number: int) -> None:
        body = jpeg(number)
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        connection.sendall(head + body + b"\r\n")


class RtspCamera(Camera):
    """RTSP 1.0 (RFC 2326) with JPEG in RTP (RFC 2435), interleaved in the one TCP connection."""

    @property
    def url(self) -> str:
        """Where it is, with a user and a password."""
        return f"rtsp://admin:secret@127.0.0.1:{self.port}/cam"

    def _answer(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as asked:
            while True:
                verb = asked.readline().split()[0].decode()
                lines = iter(lambda: asked.readline().decode().strip(), "")
                fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                head, body = _rtsp(verb)
                answer = f"RTSP/1.0 200 OK\r\nCSeq: {fields['cseq']}\r\n{head}Content-Length: {len(body)}\r\n\r\n{body}"
                connection.sendall(answer.encode())
                if verb == "PLAY":
                    return

    def _send(self, connection: socket.socket, number: int) -> None:
        tables, sampling, scan = _jpeg_parts(jpeg(number))
        payload = struct.pack(">IBBBB", 0, int(sampling == 0x22), 255, WIDTH // 8, HEIGHT // 8)
        payload += struct.pack(">BBH", 0, 0, len(tables)) + tables + scan
        ticks = int(self.sent * self._interval_s * 90_000)
        packet = struct.pack(">BBHII", 0x80, 0x80 | 26, self.sent % 65536, ticks % 2**32, 1) + payload
        connection.sendall(b"$\0" + struct.pack(">H", len(packet)) + packet)


def _rtsp(verb: str) -> tuple[str, str]:
    if verb == "DESCRIBE":
        sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=door\r\nt=0 0\r\nm=video 0 RTP/AVP 26\r\na=control:track\r\n"
        return "Content-Type: application/sdp\r\n", sdp
    if verb == "SETUP":
        return "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n", ""
    return ("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n" if verb == "OPTIONS" else "Session: 1\r\n"), ""


def _jpeg_parts(data: bytes) -> tuple[bytes, int, bytes]:
    """Quantization tables, the luminance's sampling factors, and the scan's data (ITU-T T.81, annex B)."""
    place, tables, sampling = 2, b"", 0
    while True:
        marker, length = struct.unpack_from(">HH", data, place)
        body = data[place + 4 : place + 2 + length]
        place += 2 + length
        if marker == 0xFFDB:
            tables += b"".join(body[start + 1 : start + 65] for start in range(0, len(body), 65))
        if marker == 0xFFC0:
            sampling = body[7]
        if marker == 0xFFDA:
            return tables, sampling, data[place:-2]


def _shut(opened: socket.socket) -> None:
    with suppress(OSError):  # it may be gone already
        opened.shutdown(socket.SHUT_RDWR)
    opened.close()
