"""What is compared: a codec at one setting, and codecs with several settings.

`ModelFamily` is a Bittern model at several numbers of stages; other codecs are in `baselines.py`.
A family runs in a worker process, so it is a plain frozen dataclass.
"""

import functools
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

import bittern
from bittern import checkpoint
from bittern.config import SEARCH_WIDTH, WIDEST_SEARCH
from bittern.errors import ConfigError
from bittern.evaluation.clips import Clip
from bittern.format import container as bitstream
from bittern.format import edit as editing


@dataclass(frozen=True)
class System:
    """A codec at one setting: one point of a rate-distortion curve."""

    family: str
    setting: str  # "8 stages", "6 kbit/s"
    identity: str  # names exactly what runs: fingerprint or version and command

    @property
    def name(self) -> str:
        return f"{self.family} {self.setting}".strip()


@dataclass(frozen=True, eq=False)
class Coded:
    """A clip after coding and decoding, with the bytes it took."""

    system: System
    samples: NDArray[np.float32]  # [T'], at the clip's rate; may lag and differ in length
    payload_bytes: int  # what carries audio
    file_bytes: int  # the whole file, with headers
    codes: NDArray[np.int64] | None = None  # [k, F], of a Bittern model at its most stages


@dataclass(frozen=True)
class CodingFailure:
    """A clip that a system could not code."""

    system: System
    reason: str


class Family(Protocol):
    """Codes clips at one or several settings."""

    @property
    def name(self) -> str: ...

    @property
    def is_model(self) -> bool: ...

    @property
    def systems(self) -> Sequence[System]: ...

    def code(self, clip: Clip, wanted: Sequence[System]) -> Iterator[Coded | CodingFailure]:
        """Code a clip with each of `wanted`, in any order."""
        ...


@dataclass(frozen=True)
class ModelFamily:
    """A Bittern model, its file trimmed to each number of stages and decompressed.

    The samples come from exactly the bytes that are counted.
    """

    name: str
    folder: Path
    fingerprint: str  # of the weights, and of the entropy model if there is one
    stages: tuple[int, ...]  # ascending
    codebook_size: int
    sample_rate: int  # Hz
    search_width: int = SEARCH_WIDTH  # of the encoder
    is_model: bool = True

    @property
    def systems(self) -> tuple[System, ...]:
        return tuple(
            System(self.name, _stages_label(count), f"bittern {self._encoder} {count}")
            for count in self.stages
        )

    @property
    def _encoder(self) -> str:
        return f"{self.fingerprint} search {self.search_width}"

    def code(self, clip: Clip, wanted: Sequence[System]) -> Iterator[Coded | CodingFailure]:
        codec = _loaded(self.folder)
        full = codec.compress(
            clip.samples[None],
            clip.sample_rate,
            stages=self.stages[-1],
            search_width=self.search_width,
        )
        for system, stages in zip(self.systems, self.stages, strict=True):
            if system not in wanted:
                continue
            data = trimmed(full, stages)
            samples, _ = codec.decompress(data)
            reader = bitstream.Reader(io.BytesIO(data), system.name)
            chunks = list(reader)
            codes = [
                bitstream.unpack(chunk, reader.header, coder=codec.entropy)[0] for chunk in chunks
            ]
            yield Coded(
                system=system,
                samples=np.asarray(samples, dtype=np.float32).mean(axis=0),
                payload_bytes=sum(len(chunk.payload) for chunk in chunks),
                file_bytes=len(data),
                codes=np.concatenate(codes, axis=1) if stages == self.stages[-1] else None,
            )


def model_family(
    name_or_folder: str, stages: Sequence[int] | None, *, search_width: int = SEARCH_WIDTH
) -> ModelFamily:
    """A model at the given numbers of stages, or at a spread of all that it has.

    Raises:
        ModelError: it cannot be loaded.
        ConfigError: the search is too wide.
    """
    if search_width > WIDEST_SEARCH:
        raise ConfigError(f"--search-width is {search_width}; give 1 to {WIDEST_SEARCH}")
    searched = "" if search_width == SEARCH_WIDTH else f" search {search_width}"
    loaded = checkpoint.load(name_or_folder)
    quantizer = loaded.config.quantizer
    fingerprint = loaded.fingerprint.hex()
    if loaded.entropy is not None:  # it changes how many bytes are counted
        fingerprint += f"+{loaded.entropy.fingerprint.hex()}"
    if stages is None:
        stages = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
    kept = sorted({count for count in stages if 1 <= count <= quantizer.stages})
    if not kept or (stages[-1] > quantizer.stages and quantizer.stages not in kept):
        kept.append(quantizer.stages)
    return ModelFamily(
        name=loaded.config.name + searched,
        folder=loaded.folder.resolve(),
        fingerprint=fingerprint,
        stages=tuple(kept),
        codebook_size=quantizer.codebook_size,
        sample_rate=loaded.config.sample_rate,
        search_width=search_width,
    )


def trimmed(data: bytes, stages: int) -> bytes:
    """A `.btn` file cut to its first stages."""
    out = io.BytesIO()
    editing.trim(bitstream.Reader(io.BytesIO(data), "codec"), out, stages)
    return out.getvalue()


def _stages_label(count: int) -> str:
    return "1 stage" if count == 1 else f"{count} stages"


@functools.lru_cache(maxsize=2)
def _loaded(folder: Path) -> bittern.Codec:
    return bittern.load(folder, device="cpu")
