"""`.ecdc` files, EnCodec's own, in place of `.btn`: by the name of what is written, or of what is read."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np
import soxr

from bittern.cli.ports import label, open_input, open_output
from bittern.config import CodingOptions
from bittern.errors import ConfigError

if TYPE_CHECKING:
    from bittern.audio.streams import AudioStream
    from bittern.codec import Codec

SUFFIX = ".ecdc"


def compress(
    codec: "Codec",
    source: "AbstractContextManager[AudioStream]",
    target: str,
    options: CodingOptions,
    *,
    force: bool,
) -> tuple[str, float]:
    """Write one; returns what to say of it, and the seconds of audio."""
    import torch

    from bittern.audio import streams as audio

    if options.quality is not None:
        raise ConfigError(
            f"{target}: frames of {SUFFIX} files are alike; give --bitrate or --stages"
        )
    stages = options.count_stages(codec.config)
    with source as stream:
        samples = audio.gather(audio.check_samples(stream).blocks, stream.channels)
        mixed = audio.mix(samples.T, codec.channels, stream.name)
        wav = soxr.resample(mixed, stream.sample_rate, codec.sample_rate).astype(np.float32).T
    data = codec.compress_ecdc(torch.from_numpy(np.ascontiguousarray(wav)), stages=stages)
    with open_output(target, force=force) as file:
        file.write(data)
    return _said(f"{stages} stages", wav.shape[1] / codec.sample_rate, len(data))


def decompress(
    codec: "Codec", source: str, write: "Callable[[AudioStream], None]"
) -> tuple[str, float]:
    """Bring one back, and hand it to `write`."""
    from bittern.audio import streams as audio

    with open_input(source) as file:
        data = file.read()
    found = codec.decompress_ecdc(data, label(source))
    write(audio.array_stream(found.wav.numpy(), found.sample_rate, label(source)))
    return _said(f"at {found.sample_rate} Hz", found.wav.shape[1] / found.sample_rate, len(data))


def _said(what: str, seconds: float, size: int) -> tuple[str, float]:
    kbps = 8 * size / 1000 / seconds if seconds else 0.0
    return f"{seconds:.2f} s, {what}, {kbps:.2f} kbit/s ({size} bytes)", seconds
