"""Codecs that Python can call, by a small protocol: encode, decode, bits.

Opus and Lyra are here. To compare with another one nothing need be changed: a file of Python with a class
`Codec` of this protocol is a baseline by its name, `--baseline mycodec.py=1.5,3`.
"""

import functools
import hashlib
import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soxr
from numpy.typing import NDArray

from bittern.errors import ConfigError
from bittern.evaluation.clips import Clip, to_int16
from bittern.evaluation.systems import Row, System, not_coded
from bittern.evaluation.tools import payload_bytes

OPUS_RATES = ("6", "8", "12", "16", "24")  # kbit/s, by default
LYRA_FILES = ("soundstream_encoder.tflite", "quantizer.tflite", "lyragan.tflite")

_package: Callable[[str], Any] = importlib.import_module
Samples = NDArray[np.floating]  # [T], in -1..1


class Codec(Protocol):
    """What one worker process codes clips with, each at each rate that is asked for."""

    @property
    def name(self) -> str: ...

    @property
    def rates(self) -> Sequence[str]:
        """In kbit/s, by default."""
        ...

    @property
    def sample_rate(self) -> int | None:
        """Hz, that it must be given; None: it takes any."""
        ...

    def encode(self, samples: Samples, sample_rate: int, rate: str) -> Any:
        """Code a whole clip at a rate in kbit/s."""
        ...

    def decode(self, codes: Any) -> tuple[Samples, int]:
        """Samples, which may lag and differ in number, and their rate in Hz."""
        ...

    def bits(self, codes: Any) -> int:
        """What carries audio, without headers; a codec with headers has `file_bits`, too."""
        ...


@dataclass(frozen=True)
class LibraryFamily:
    """Such a codec at one or several rates. It goes to worker processes: no lambdas."""

    name: str
    rates: tuple[str, ...]  # kbit/s
    version: str  # names exactly what runs
    make: Callable[[], Codec]
    missing: str | None = None
    is_model: bool = False

    @property
    def systems(self) -> tuple[System, ...]:
        return tuple(
            System(self.name, f"{rate} kbit/s", f"{self.version} | {rate}") for rate in self.rates
        )

    def code(self, clip: Clip, wanted: Sequence[System]) -> Iterator[Row]:
        for system, rate in zip(self.systems, self.rates, strict=True):
            if system not in wanted:
                continue
            try:
                yield self._row(clip, system, rate)
            except Exception as error:  # of other people's code over whatever audio users have
                yield not_coded(clip, system, f"{type(error).__name__}: {error}")

    def _row(self, clip: Clip, system: System, rate: str) -> Row:
        codec = self.make()
        sample_rate = codec.sample_rate or clip.sample_rate
        samples = soxr.resample(clip.samples, clip.sample_rate, sample_rate)
        codes = codec.encode(samples, sample_rate, rate)
        decoded, decoded_rate = codec.decode(codes)
        file_bits = getattr(codec, "file_bits", codec.bits)
        return Row(
            clip.name,
            system,
            payload_bytes=-(-codec.bits(codes) // 8),
            file_bytes=-(-file_bits(codes) // 8),
            samples=soxr.resample(decoded, decoded_rate, clip.sample_rate).astype(np.float32),
        )


def from_file(path: Path, rates: Sequence[str] | None) -> LibraryFamily:
    """A codec of the user's own.

    Raises:
        ConfigError: the file does not run, or has no such class.
    """
    try:
        codec = _own(path)
        own, name = tuple(map(str, codec.rates)), str(codec.name)
    except Exception as error:  # the user's code
        raise ConfigError(
            f"baseline {path}: needs a class Codec with name, rates, sample_rate, encode, decode and "
            f"bits ({type(error).__name__}: {error})"
        ) from None
    version = f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
    return LibraryFamily(name, tuple(rates or own), version, functools.partial(_own, path))


@functools.lru_cache(maxsize=1)
def _own(path: Path) -> Codec:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Codec()


class Opus:
    """By the package `opuscodec`, whose libopus is current; at its encoder's defaults, without QEXT."""

    name, rates, sample_rate = "Opus", OPUS_RATES, None

    def encode(self, samples: Samples, sample_rate: int, rate: str) -> bytes:
        encoder = _package("opuscodec").OpusBufferedEncoder(
            sample_rate=sample_rate, channels=1, bitrate=round(1000 * float(rate)), qext=False
        )
        return encoder.write(to_int16(samples)[:, None]) + encoder.flush()

    def decode(self, codes: bytes) -> tuple[Samples, int]:
        decoded = _package("opuscodec").OpusBufferedDecoder().decode(codes)[:, 0]
        return decoded.astype(np.float32) / 32768, 48_000  # at which it always decodes

    def bits(self, codes: bytes) -> int:
        with tempfile.TemporaryDirectory(prefix="bittern-") as folder:
            path = Path(folder) / "code.opus"
            path.write_bytes(codes)
            return 8 * payload_bytes(path)

    def file_bits(self, codes: bytes) -> int:
        return 8 * len(codes)


def opus_installed() -> bool:
    return importlib.util.find_spec("opuscodec") is not None


def opus(rates: Sequence[str] | None) -> LibraryFamily:
    version = _package("opuscodec").opus_version()
    return LibraryFamily(Opus.name, tuple(rates or Opus.rates), version, Opus)


class Lyra:
    """Lyra v2 from its three networks: `lyra/model_coeffs` of github.com/google/lyra, Apache-2.0.

    Frames of 20 ms are coded and decoded one by one as by its own programs, without the concealment and
    comfort noise that packets which all arrive never ask for. The networks remember what they heard: a
    new one is made for each clip.

    Source: lyra/{soundstream_encoder,residual_vector_quantizer,lyra_gan_model}.cc of that repository.
    """

    quantizers = {"3.2": 16, "6": 30, "9.2": 46}  # kbit/s: of 4 bits a frame  # noqa: RUF012
    name, rates, sample_rate, hop = "Lyra v2", tuple(quantizers), 16_000, 320

    def __init__(self, folder: Path) -> None:
        paths = [str(folder / file) for file in LYRA_FILES]
        load = functools.partial(_package("ai_edge_litert.interpreter").Interpreter, num_threads=1)
        self._networks = [load(path) for path in paths]

    def encode(self, samples: Samples, sample_rate: int, rate: str) -> list[NDArray[np.int32]]:
        del sample_rate
        extract = self._networks[0].get_signature_runner("serving_default")
        quantize = self._networks[1].get_signature_runner("encode")
        count = self.quantizers[rate]
        padded = np.pad(samples, (0, -len(samples) % self.hop)).astype(np.float32)
        frames = []
        for frame in padded.reshape(-1, 1, self.hop):
            features = extract(input_audio=frame)["output_0"]
            found = quantize(input_frames=features, num_quantizers=np.int32(count))["output_0"]
            frames.append(found.reshape(-1)[:count])
        return frames

    def decode(self, codes: list[NDArray[np.int32]]) -> tuple[Samples, int]:
        look_up = self._networks[1].get_signature_runner("decode")
        generate = self._networks[2].get_signature_runner("serving_default")
        most = look_up.get_input_details()["encoding_indices"]["shape"][0]
        decoded = []
        for found in codes:
            indices = np.full((most, 1, 1), -1, np.int32)  # -1: not sent
            indices[: len(found), 0, 0] = found
            features = look_up(encoding_indices=indices)["output_0"]
            decoded.append(generate(input_audio=features)["output_0"].reshape(-1))
        return np.concatenate(decoded), self.sample_rate

    def bits(self, codes: list[NDArray[np.int32]]) -> int:
        return sum(4 * len(found) for found in codes)  # whole bytes a frame: 8, 15 or 23


def lyra(folder: Path) -> LibraryFamily:
    """Lyra at its three rates, from a folder of its network files."""
    version, missing = "", None
    lacking = [file for file in LYRA_FILES if not (folder / file).is_file()]
    if importlib.util.find_spec("ai_edge_litert") is None:
        missing = f"{Lyra.name}: not installed; pip install ai-edge-litert"
    elif lacking:
        missing = f"{Lyra.name}: {folder} lacks {' and '.join(lacking)}; they are in google/lyra on GitHub"
    else:
        data = b"".join((folder / file).read_bytes() for file in LYRA_FILES)
        version = f"networks {hashlib.sha256(data).hexdigest()[:16]}"
    return LibraryFamily(Lyra.name, Lyra.rates, version, functools.partial(Lyra, folder), missing)
