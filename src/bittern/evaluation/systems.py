"""What is compared: a codec at one setting, and codecs with several settings.

`ModelFamily` is a Bittern model at several settings; other codecs are in `baselines.py`.
A family runs in a worker process, so it is a plain frozen dataclass.
"""

import dataclasses
import functools
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

import bittern
from bittern import checkpoint
from bittern.audio import streams as audio
from bittern.config import SEARCH_WIDTH, WIDEST_SEARCH
from bittern.errors import ConfigError
from bittern.evaluation.clips import Clip
from bittern.format import container as bitstream
from bittern.format import edit as editing
from bittern.format.erasures import BurstLoss

NOTHING = np.zeros(0, np.float32)


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
class Row:
    """One clip through one system: what it took, what it sounds like, what it scored; or why not.

    A family gives bytes and samples [T'] at the clip's rate, `run.work` aligns and scores them, the
    cache keeps the whole; from there on rows go without their samples.
    """

    clip: str  # its name
    system: System
    payload_bytes: int = 0  # what carries audio
    file_bytes: int = 0  # the whole file, with headers
    samples: NDArray[np.float32] = field(default_factory=lambda: NOTHING)
    codes: NDArray[np.int64] | None = None  # [k, F], of a Bittern model at its most stages
    delay: int = 0  # samples by which the decoded audio lagged
    values: dict[str, float] = field(default_factory=dict)  # scores
    levels: tuple[float, float] = (1.0, 1.0)  # peak and energy, over the original's (`stress.py`)
    faults: tuple[str, ...] = ()  # why the decoded audio is broken
    failures: dict[str, str] = field(default_factory=dict)  # what failed ("coding", a metric): why
    from_cache: bool = False

    @property
    def coded(self) -> bool:
        return "coding" not in self.failures


def not_coded(clip: Clip, system: System, reason: str) -> Row:
    """The row of a clip that a system could not code."""
    return Row(clip.name, system, failures={"coding": reason})


class Family(Protocol):
    """Codes clips at one or several settings."""

    @property
    def name(self) -> str: ...

    @property
    def is_model(self) -> bool: ...

    @property
    def version(self) -> str:
        """What exactly runs."""
        ...

    @property
    def missing(self) -> str | None:
        """What to say, and to install, where it cannot run; None where it can."""
        ...

    @property
    def systems(self) -> Sequence[System]: ...

    def code(self, clip: Clip, wanted: Sequence[System]) -> Iterator[Row]:
        """Code a clip with each of `wanted`, in any order: rows without scores."""
        ...


class Loss(NamedTuple):
    """Frames that do not arrive, in bursts (`format/erasures.py`), and are concealed."""

    rate: float  # share, 0 to below 1
    mean_burst: float  # frames


@dataclass(frozen=True)
class ModelFamily:
    """A Bittern model at numbers of stages (a file trimmed to each) or at bitrates (a file each).

    The samples come from exactly the bytes that are counted.
    """

    name: str
    folder: Path
    fingerprint: str  # of the weights, and of the entropy model if there is one
    codebook_size: int
    sample_rate: int  # Hz
    stages: tuple[int, ...] = ()  # ascending
    bitrates: tuple[float, ...] = ()  # kbit/s, asked of the encoder; used where there are no stages
    search_width: int = SEARCH_WIDTH  # of the encoder
    loss: Loss | None = None
    is_model: bool = True
    missing: str | None = None

    @property
    def version(self) -> str:
        return f"weights {self.fingerprint}"

    @property
    def systems(self) -> tuple[System, ...]:
        what = f"bittern {self.fingerprint} search {self.search_width}"
        lost = f" loss {self.loss.rate} {self.loss.mean_burst}" if self.loss else ""
        settings = [(f"{count} stage{'s' * (count > 1)}", str(count)) for count in self.stages] or [
            (f"{rate:.1f} kbit/s", f"average {rate} kbit/s") for rate in self.bitrates
        ]
        return tuple(System(self.name, label, f"{what} {key}{lost}") for label, key in settings)

    def code(self, clip: Clip, wanted: Sequence[System]) -> Iterator[Row]:
        codec = _loaded(self.folder)
        for system, data in self._files(codec, clip, wanted):
            reader = bitstream.Reader(io.BytesIO(data), system.name)
            chunks = list(reader)
            codes = None
            if self.stages and not self.loss and system == self.systems[-1]:
                parts = [bitstream.unpack(c, reader.header, coder=codec.entropy)[0] for c in chunks]
                codes = np.concatenate(parts, axis=1)
            yield Row(
                clip.name,
                system,
                payload_bytes=sum(len(chunk.payload) for chunk in chunks),
                file_bytes=len(data),
                samples=self._decode(codec, clip, data),
                codes=codes,
            )

    def _files(
        self, codec: bittern.Codec, clip: Clip, wanted: Sequence[System]
    ) -> Iterator[tuple[System, bytes]]:
        compress = functools.partial(
            codec.compress, clip.samples[None], clip.sample_rate, search_width=self.search_width
        )
        full = compress(stages=self.stages[-1]) if self.stages else b""
        for number, system in enumerate(self.systems):
            if system in wanted and self.stages:
                yield system, trimmed(full, self.stages[number])
            elif system in wanted:
                yield system, compress(bitrate_kbps=self.bitrates[number])

    def _decode(self, codec: bittern.Codec, clip: Clip, data: bytes) -> NDArray[np.float32]:
        """[T] at the clip's rate; the same frames of a clip are lost at all settings."""
        if self.loss is None:
            samples = codec.decompress(data).wav.numpy()
        else:
            lost = BurstLoss(*self.loss, seed=int(clip.digest[:8], 16))
            stream = codec.simulate_loss(io.BytesIO(data), clip.name, lost)
            samples = audio.gather(stream.blocks, stream.channels)
        return samples.astype(np.float32).mean(axis=0)

    def losing(self, loss: Loss) -> "ModelFamily":
        """The same with losses.

        Raises:
            ConfigError: there are no such losses.
        """
        try:
            BurstLoss(*loss)
        except ValueError as error:
            raise ConfigError(f"--loss {loss.rate:g},{loss.mean_burst:g}: {error}") from None
        name = f"{self.name}, {100 * loss.rate:g} % lost by {loss.mean_burst:g}"
        return dataclasses.replace(self, name=name, loss=loss)


def model_family(
    name_or_folder: str,
    stages: Sequence[int] | None = None,
    *,
    bitrates: Sequence[float] = (),
    search_width: int = SEARCH_WIDTH,
) -> ModelFamily:
    """A model at the given numbers of stages or bitrates, or at a spread of all its stages.

    Raises:
        ModelError: it cannot be loaded.
        ConfigError: the search is too wide, or a bitrate is out of reach.
    """
    if search_width > WIDEST_SEARCH:
        raise ConfigError(f"--search-width is {search_width}; give 1 to {WIDEST_SEARCH}")
    loaded = checkpoint.load(name_or_folder)
    config = loaded.config
    fingerprint = loaded.fingerprint.hex()
    if loaded.entropy is not None:  # it changes how many bytes are counted
        fingerprint += f"+{loaded.entropy.fingerprint.hex()}"
    for rate in bitrates:
        config.check_bitrate(rate)
    most = config.quantizer.stages
    wanted = () if bitrates else stages or (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
    kept = sorted({min(count, most) for count in wanted if count >= 1})
    searched = "" if search_width == SEARCH_WIDTH else f" search {search_width}"
    return ModelFamily(
        name=config.name + searched,
        folder=loaded.folder.resolve(),
        fingerprint=fingerprint,
        codebook_size=config.quantizer.codebook_size,
        sample_rate=config.sample_rate,
        stages=tuple(kept),
        bitrates=tuple(sorted(set(bitrates))),
        search_width=search_width,
    )


def trimmed(data: bytes, stages: int) -> bytes:
    """A `.btn` file cut to its first stages."""
    out = io.BytesIO()
    editing.trim(bitstream.Reader(io.BytesIO(data), "codec"), out, stages)
    return out.getvalue()


@functools.lru_cache(maxsize=2)
def _loaded(folder: Path) -> bittern.Codec:
    return bittern.load(folder, device="cpu")
