"""Bittern, a neural audio codec: `bittern.load("speech-16khz")`, then encode, decode, compress.

Names are looked up when they are first used: `import bittern` alone does not load torch.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from bittern.errors import (
    AudioError,
    CodecError,
    ConfigError,
    FormatError,
    ModelError,
    ModelMismatchError,
)

if TYPE_CHECKING:
    from bittern.codec import Codec, load
    from bittern.config import CodecConfig, CodingOptions
    from bittern.model.stream import StreamingDecoder, StreamingEncoder

    __version__: str

__all__ = [
    "AudioError",
    "Codec",
    "CodecConfig",
    "CodecError",
    "CodingOptions",
    "ConfigError",
    "FormatError",
    "ModelError",
    "ModelMismatchError",
    "StreamingDecoder",
    "StreamingEncoder",
    "__version__",
    "load",
]

_HOMES = {
    "Codec": "bittern.codec",
    "load": "bittern.codec",
    "CodecConfig": "bittern.config",
    "CodingOptions": "bittern.config",
    "StreamingDecoder": "bittern.model.stream",
    "StreamingEncoder": "bittern.model.stream",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("bittern")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'bittern' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
