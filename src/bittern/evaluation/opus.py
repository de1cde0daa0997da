"""Opus by the package `opuscodec`, which brings a current libopus of its own."""

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bittern.evaluation.clips import to_int16
from bittern.evaluation.files import payload_bytes
from bittern.evaluation.library import Decoded, LibraryFamily, Samples

RATES = ("6", "8", "12", "16", "24")  # kbit/s, by default
DECODED_RATE = 48_000  # Hz, at which it always decodes


def installed() -> bool:
    return importlib.util.find_spec("opuscodec") is not None


def family(rates: Sequence[str] | None) -> LibraryFamily:
    """Opus at its encoder's defaults: variable rate, complexity 10, and no extra layer (QEXT)."""
    version = _package().opus_version()
    return LibraryFamily("Opus", tuple(rates or RATES), version, _work)


def _work(samples: Samples, sample_rate: int, rate: str) -> Decoded:
    encoder = _package().OpusBufferedEncoder(
        sample_rate=sample_rate, channels=1, bitrate=round(1000 * float(rate)), qext=False
    )
    data = encoder.write(to_int16(samples)[:, None]) + encoder.flush()
    decoded = _package().OpusBufferedDecoder().decode(data)[:, 0]
    with tempfile.TemporaryDirectory(prefix="bittern-") as folder:
        path = Path(folder) / "code.opus"
        path.write_bytes(data)
        payload = payload_bytes(path)
    return Decoded(decoded.astype(np.float32) / 32768, DECODED_RATE, payload, len(data))


def _package() -> Any:
    return importlib.import_module("opuscodec")
