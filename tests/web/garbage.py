"""What reaches an open port that is no HTTP: bytes of other protocols, broken requests, noise."""

import random

KNOWN = [
    b"\r\n" * 50,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET  / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n",
    b"\0" * 1000,
    b"SSH-2.0-OpenSSH_9.0\r\n",
    b"HELO x\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"GET / HTTP/1.1\nHost: a\n\n",
    b"A" * 100_000,
    b"POST /echo HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
]


def garbage(n: int, seed: int = 0) -> list[bytes]:
    """`n` pieces of bytes that are no HTTP, or nearly; the same for the same seed."""
    draw = random.Random(seed)
    noise = [draw.randbytes(draw.randrange(1, 3000)) + b"\r\n\r\n" for _ in range(max(0, n - len(KNOWN)))]
    return [*KNOWN, *noise][:n]
