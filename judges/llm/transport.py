"""Bounds on what a server may send: bytes, seconds and redirects.

A judge's server may be a stranger's, or broken.  The HTTP library's time-out is for each read, so a server that sends
one byte a second is never too slow for it; it follows redirects with the prompts to anywhere; and it unpacks whatever
is sent, so that a small compressed response can fill the memory.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.judges.llm.address import BEARER

try:
    import httpx2 as httpx  # of openai 3
except ImportError:
    import httpx  # type: ignore[import-not-found, no-redef, unused-ignore]  # of openai 2

MOST_BYTES = 8 * 2**20
"""Of a response's body, unpacked.  A verdict takes hundreds; log-probabilities of a few words take thousands."""
ENCODINGS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""By name of a content encoding: the format of `zlib`, which unpacks up to a bound; others do not."""
DROPPED = frozenset({"content-encoding", "content-length", "transfer-encoding"})
"""Headers that describe the bytes as they were sent."""


class UnboundedError(Exception):
    """A response that exceeds a bound or cannot be unpacked; the message is the reason that is counted."""


class BoundedTransport(httpx.BaseTransport):
    """Reads every response whole, within `seconds` and MOST_BYTES, and follows no redirect to another origin.

    The key goes into `key_header`: alone, and not as a bearer's token, where that is another header than the usual one.
    """

    def __init__(self, inner: httpx.BaseTransport, seconds: float, key_header: str = BEARER) -> None:
        self.inner, self.seconds, self.key_header = inner, seconds, key_header

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The response with its body.

        Raises BenchError for a redirect to another origin, httpx.ReadTimeout after `seconds`, and UnboundedError.
        """
        end = time.monotonic() + self.seconds
        if self.key_header.lower() != BEARER.lower():
            # here, because the client insists on the usual one; a redirected request has it no more
            bearer = request.headers.pop(BEARER, "")
            if bearer:
                request.headers[self.key_header] = bearer.removeprefix("Bearer ")
        response = self.inner.handle_request(request)
        try:
            _check_redirect(request, response)
            assert isinstance(response.stream, httpx.SyncByteStream)
            encoding = response.headers.get("content-encoding", "").strip().lower()
            body = b"".join(_unpacked(response.stream, encoding, end, request))
        finally:
            response.close()
        headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in DROPPED]
        return httpx.Response(
            response.status_code, headers=headers, content=body, extensions=response.extensions, request=request
        )

    def close(self) -> None:
        """Close the connections."""
        self.inner.close()


def bounded_client(base_url: str, seconds: float, key_header: str = BEARER) -> httpx.Client:
    """An HTTP client for one server, through the environment's proxy where there is one."""
    parts = urlsplit(base_url)
    # named here: httpx itself looks for proxies only where it makes the transport
    proxies = {} if proxy_bypass(parts.hostname or "") else getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    inner = httpx.HTTPTransport(proxy=proxy, limits=httpx.Limits(max_connections=1000, max_keepalive_connections=100))
    return httpx.Client(
        transport=BoundedTransport(inner, seconds, key_header),
        timeout=seconds,
        follow_redirects=True,  # within the origin: `_check_redirect` refuses the others
        headers={"Accept-Encoding": "gzip, deflate"},
    )


def _check_redirect(request: httpx.Request, response: httpx.Response) -> None:
    """Raises BenchError for a redirect to another scheme, host or port, which would get prompts and perhaps the key."""
    if not response.has_redirect_location:
        return
    try:
        target = request.url.join(response.headers["location"])
        origin = f"{target.scheme}://{target.host}" + (f":{target.port}" if target.port else "")
    except (httpx.InvalidURL, ValueError):
        target, origin = httpx.URL(""), "an address that is none"
    if (target.scheme, target.host, target.port) != (request.url.scheme, request.url.host, request.url.port):
        seen = f"{request.url.scheme}://{request.url.host} redirects to {origin[:100]}."
        raise BenchError(seen, "Nothing was sent there. If you trust it, give that address as base_url.")


def _unpacked(chunks: Iterable[bytes], encoding: str, end: float, request: httpx.Request) -> Iterator[bytes]:
    """The chunks of a body without its encoding.

    Raises UnboundedError once they exceed MOST_BYTES, httpx.ReadTimeout for a chunk after `end` (of time.monotonic).
    """
    if encoding not in ("", "identity", *ENCODINGS):
        raise UnboundedError("the response is packed in a way that was not asked for")
    unpack = zlib.decompressobj(ENCODINGS[encoding]) if encoding in ENCODINGS else None
    left = MOST_BYTES
    for chunk in chunks:
        if time.monotonic() > end:
            raise httpx.ReadTimeout("the time for the whole response is up", request=request)
        try:
            # at most one byte more than allowed is ever unpacked
            part = unpack.decompress(chunk, left + 1) if unpack else chunk
        except zlib.error:
            raise UnboundedError("the response is packed wrongly") from None
        left -= len(part)
        if left < 0:
            raise UnboundedError(f"the response is larger than {MOST_BYTES // 2**20} MiB")
        yield part
    if unpack and not unpack.eof:
        raise UnboundedError("the response is packed wrongly")
