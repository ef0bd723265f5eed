"""Lists and tables that belong to a data set, read as UTF-8 from files alone."""

from __future__ import annotations

from pathlib import Path

from hyplearn.data.errors import DatasetError
from hyplearn.runs.bounded import read_text

BYTES = 2**30  # a table of ten million images


def text_of(path: Path, *, errors: str = "strict") -> str:
    """Return the text of a file, without a mark of its encoding. Raises DatasetError for what is no file or no text.

    errors: what becomes of bytes that are no UTF-8, as Python names it.
    """
    try:
        return read_text(path, limit=BYTES, errors=errors).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not in UTF-8 ({error}): save it in UTF-8") from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DatasetError(f"{path} is no list of a data set: {error}") from error


def lines_of(path: Path, *, errors: str = "strict") -> list[str]:
    """Return the lines of a text file, see `text_of`."""
    return text_of(path, errors=errors).splitlines()
