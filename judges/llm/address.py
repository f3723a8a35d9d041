"""The address of a judge's server: its path, the query that Azure needs, and the header that carries the key.

Addresses are stored and shown in reports, so nothing that could be a key is taken in one, and no message repeats it.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from rlhf_bench.harness.errors import BenchError

BEARER = "Authorization"
"""The usual header; its value is "Bearer KEY".  Other headers hold the key alone."""
AZURE = re.compile(r"\.(?:openai\.azure|cognitiveservices\.azure|services\.ai\.azure)\.(?:com|us|cn)\Z")
AZURE_HEADER = "api-key"
ENDPOINT = "/chat/completions"
VERSION = "api-version"
"""The one query that is taken: Azure's, a date."""


class Address(NamedTuple):
    """A server's address in parts; equal for two spellings of one address.

    base: up to the version, as in http://localhost:8000/v1.   version: Azure's api-version, "" without one.
    header: the name of the header that carries the key.
    """

    base: str
    version: str
    header: str

    @property
    def text(self) -> str:
        """The address in one text."""
        return f"{self.base}?{VERSION}={self.version}" if self.version else self.base


def parse_address(text: str, header: str = "") -> Address:
    """The address of the setting base_url; `header` is the setting key_header, "" for the server's usual one.

    The endpoint at its end, which pages of providers show, is left out.  Raises BenchError, without repeating the text,
    for what is no http address and for an address with a user, a password or another query.
    """
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise BenchError("winrate-llm.base_url is no http address.", "Such as http://localhost:8000/v1.")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    version = query.pop(VERSION, "")
    if parts.username or parts.password or parts.fragment or query or (parts.query and not version):
        raise BenchError(
            f"winrate-llm.base_url holds a user, a password or a query other than ?{VERSION}=DATE.",
            "Give the bare address; the key comes from the environment variable that key_env names.",
        )
    # a date; whatever else stood there could be a key
    if version and not re.fullmatch(r"(?:\d{4}-\d{2}-\d{2}|v?\d+)(?:-preview)?|latest|preview", version):
        raise BenchError(f"winrate-llm.base_url has an {VERSION} that is no date.", "Such as 2024-10-21.")
    path = parts.path.rstrip("/").removesuffix(ENDPOINT)
    azure = bool(AZURE.search(parts.hostname or ""))
    if azure and not version and (not path or "/deployments/" in path):
        raise BenchError(
            f"winrate-llm.base_url is an address of Azure without ?{VERSION}=DATE.",
            "Add it, or give https://HOST/openai/v1.",
        )
    if header and not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,60}", header):
        raise BenchError("winrate-llm.key_header is no name of a header.", "Such as api-key; Authorization is usual.")
    if header.lower() in ("host", "content-type", "content-length", "accept", "accept-encoding", "connection"):
        raise BenchError(f"winrate-llm.key_header={header} has another meaning.", "Such as api-key.")
    return Address(f"{parts.scheme}://{parts.netloc}{path}", version, header or (AZURE_HEADER if azure else BEARER))
