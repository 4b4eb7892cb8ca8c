"""The text of a PDF, page by page."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from tutelage.errors import ConfigError, DocumentError

NO_PYPDF = (
    "the document {name!r} is a PDF, and there is nothing to read it with: install the extra `evidence` "
    "(pip install 'tutelage[evidence]'), or save it as text"
)


def pages_of(content: bytes, name: str) -> list[str]:
    """The text of each page; a page without text is an empty one.

    Raises:
        ConfigError: pypdf is not installed.
        DocumentError: It is broken, encrypted with a password, or has no text.
    """
    try:
        from pypdf import PdfReader
        from pypdf.errors import DependencyError
    except ImportError as error:
        raise ConfigError(NO_PYPDF.format(name=name)) from error
    with _quiet():
        try:
            reader = PdfReader(io.BytesIO(content))
            # Many PDFs are encrypted with an empty password, only to forbid printing.
            if reader.is_encrypted and not reader.decrypt(""):
                raise DocumentError(f"the document {name!r} is encrypted: save it without its password")
            pages = [page.extract_text().replace("\0", "").strip() for page in reader.pages]
        except DependencyError as error:
            raise DocumentError(
                f"the document {name!r} is encrypted in a way that needs more to be read ({error}): save it without "
                "encryption"
            ) from error
        except DocumentError:
            raise
        # pypdf meets broken files with errors of many kinds: its own, KeyError, RecursionError, struct.error, ...
        except Exception as error:
            raise DocumentError(
                f"the document {name!r} is no PDF that can be read: {type(error).__name__}: {error}"
            ) from error
    if not any(pages):
        raise DocumentError(
            f"the document {name!r} has no text in its {len(pages)} pages: it seems to be scanned; recognise its "
            "text first (OCR)"
        )
    return pages


@contextmanager
def _quiet() -> Iterator[None]:
    """It logs each oddity of a file that it can live with."""
    logger = logging.getLogger("pypdf")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
