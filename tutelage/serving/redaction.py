"""Keeps keys out of what is said: a server may repeat the key that it was sent, in an error, a redirect or a name."""

from urllib.parse import quote, quote_plus

from pydantic import SecretStr

HIDDEN = "***"


def without_key(text: str, secret: SecretStr | str | None) -> str:
    """The text with the key hidden, as it is and as URLs spell it."""
    key = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
    for spelling in {key, quote(key, safe=""), quote_plus(key)} if key else ():
        text = text.replace(spelling, HIDDEN)
    return text
