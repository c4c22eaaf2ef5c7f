"""What may be shown and stored of a text: URLs without secrets, and nothing that a terminal obeys."""

import re
from collections.abc import Iterator
from urllib.parse import unquote

__all__ = ["escape_controls", "hide_secrets", "show_url"]

# A scheme has a bound, or a long text without blanks would be gone through for each of its letters.
# A quote ends it, unless it is in the middle of a secret that should have been encoded.
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,31}://(?:[^\s'\"<>`]|['\"](?=[\w%@/+=&-]))+")
# Between the parts of a chain such as ``zip://a.zarr::https://host/b.zip``; an IPv6 address has colons, too.
CHAINED = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.-]*(?:://|::|$))")
# Shorter ones occur by chance in words and numbers.
SHORTEST_SECRET = 4
# All but line feed and tab: what moves the cursor, changes colours, or turns the direction of writing, and halves
# of characters, which cannot be encoded.
CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)


def show_url(url: str) -> str:
    """Drop user, password, query and fragment of a URL, or of each part of a chain of them.

    Examples
    --------
    >>> show_url("s3://key:secret@host/a.zarr?signature=1"), show_url("/data/a?b.zarr")
    ('s3://host/a.zarr', '/data/a?b.zarr')
    >>> show_url("simplecache::s3://key:sec/ret@bucket/a@b.zarr")
    'simplecache::s3://b.zarr'
    """
    return "::".join(scheme + place for scheme, _, place, _ in map(_split, CHAINED.split(url)))


def hide_secrets(text: str, url: str = "") -> str:
    """Drop what is secret in the URLs that a text names, and the secrets of one that is known wherever they are.

    Parameters
    ----------
    text : str
        E.g. the message of somebody else's error.
    url : str
        Whose user, password and query are replaced by ``***`` where they stand by themselves.

    Examples
    --------
    >>> hide_secrets("403, url='https://host/a?sig=s3cr3t'; sig was s3cr3t", "https://host/a?sig=s3cr3t")
    "403, url='https://host/a'; sig was ***"
    """
    if url:
        text = text.replace(url, show_url(url))
        for secret in sorted(_secrets(url), key=len, reverse=True):
            text = text.replace(secret, "***")
    return URL.sub(lambda found: show_url(found[0]), text)


def escape_controls(text: str) -> str:
    r"""Write out the characters that a terminal would obey; lines and tabs stay.

    Examples
    --------
    >>> escape_controls("a\x1b[2Jb\n\rc")
    'a\\x1b[2Jb\n\\rc'
    """
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _split(url: str) -> tuple[str, str, str, str]:
    """Split a URL into scheme, user and password, place, and what follows a question mark or a hash."""
    scheme, mark, rest = url.partition("://")
    if not mark or "/" in scheme:
        return "", "", url, ""
    host = rest.partition("/")[0]
    user = ""
    # A secret key may have a slash in it, after which there is no host yet; what follows a host is its port.
    if "@" in host or (":" in host and "@" in rest and not host.rpartition(":")[2].isdigit()):
        user = (host if "@" in host else rest).rpartition("@")[0]
        rest = rest[len(user) + 1 :]
    place = re.split("[?#]", rest, maxsplit=1)[0]
    return scheme + mark, user, place, rest[len(place) + 1 :]


def _secrets(url: str) -> Iterator[str]:
    """Yield the parts of a URL that are not shown, as they stand there, decoded, and as `repr` shows them."""
    for part in CHAINED.split(url):
        _, user, _, query = _split(part)
        values = [value.partition("=")[2] for value in re.split("[&;#]", query)]
        # A secret key with a slash in it is taken apart by those who take it for a path.
        for secret in (user, *user.split(":", 1), *re.split("[:/]", user), query, *values):
            forms = {form for text in (secret, unquote(secret)) for form in (text, repr(text)[1:-1])}
            yield from (form for form in forms if len(form) >= SHORTEST_SECRET)
