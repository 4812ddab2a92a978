"""JSON without blanks, as all that travels is written.

The json module makes a new encoder for each value, and looks at blanks around one. A job that comes alone finds its
processor cold, and each of these calls costs it several times what it does in a loop.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from json import encoder as _encoder
from typing import Any, Final


def writer(default: Callable[[Any], Any] | None = None) -> Callable[[Any], str]:
    """What writes a value as JSON text, all of it ASCII; `default` turns what JSON does not know into what it does.

    It raises as json.dumps does, but RecursionError for what contains itself.
    """
    whole = json.JSONEncoder(separators=(",", ":"), default=default, check_circular=False)
    make: Any = getattr(_encoder, "c_make_encoder", None)
    try:
        chunks = make(None, whole.default, _encoder.encode_basestring_ascii, None, ":", ",", False, False, True)
        chunks([None], 0)
    except TypeError:  # there is none, or it takes something else: it is json's own matter
        return whole.encode
    return lambda value: "".join(chunks(value, 0))


_DECODER: Final = json.JSONDecoder()


def read(text: str | bytes, decoder: json.JSONDecoder = _DECODER) -> Any:
    """The value that JSON `text` stands for. Raises as json.loads does."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogatepass")
    try:
        value, end = decoder.raw_decode(text)
    except json.JSONDecodeError:  # unless blanks stand before it
        return decoder.decode(text)
    return value if end == len(text) else decoder.decode(text)
