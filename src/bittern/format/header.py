"""The header of a `.btn` file, field by field in docs/format.md. No torch here."""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from bittern.errors import FormatError
from bittern.format import payload, ragged

MAGIC = b"BTRN"
VERSIONS = (1, 2)  # all frames have the same stages; each has its own
CODER_RAW, CODER_RANGE = 0, 1  # see payload.py
RATES = (1_000, 768_000)  # Hz, of model and source
MOST_CHANNELS = 255

_HEADER = struct.Struct("<4sBB8sIIBBBHBBBHQQI")
_ENTROPY = struct.Struct("<8sI")  # fingerprint, CRC; after the header of coder 1
_UNKNOWN = 2**64 - 1  # a sample count while live
_LONGEST_PAYLOAD = 2**24 - 1
_MOST_SAMPLES = 2**53
_MOST_CHUNK_ROWS = 2**17  # frames of all streams in a chunk: what is worked on at once

HEADER_BYTES = _HEADER.size


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says about itself.

    Raises:
        ValueError: a field is out of range or does not fit another.
    """

    fingerprint: bytes  # 8 bytes, of the model's weights
    sample_rate: int  # of the model, Hz
    source_rate: int  # of the audio that was compressed, Hz
    channels: int  # of the model
    source_channels: int
    streams: int = 1  # code sequences side by side; streams * channels come out
    hop_length: int  # samples at `sample_rate` to one frame
    bits_per_code: int
    stages: int  # the most that any frame has
    extra_frames: int  # frames beyond ceil(samples / hop_length), 1 with a lapped transform
    chunk_frames: int  # frames in every chunk but the last
    samples: int | None = None  # for each channel at `sample_rate`; None while live
    source_samples: int | None = None  # the same at `source_rate`
    entropy: bytes | None = None  # 8 bytes, of the entropy model; None: codes are packed raw
    version: int = 1  # of the format; 2 if frames have different numbers of stages

    def __post_init__(self) -> None:
        if self.version not in VERSIONS:
            raise ValueError(f"version is {self.version}, expected one of {VERSIONS}")
        for name, low, high in _RANGES:
            value = cast(int, getattr(self, name))
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}, expected {low} to {high}")
        if len(self.fingerprint) != 8:
            raise ValueError(f"fingerprint has {len(self.fingerprint)} bytes, expected 8")
        if self.entropy is not None and len(self.entropy) != 8:
            raise ValueError(f"entropy has {len(self.entropy)} bytes, expected 8")
        too_many = self.streams * self.chunk_frames > _MOST_CHUNK_ROWS
        if too_many or self.payload_bytes(self.chunk_frames, self.stages) > _LONGEST_PAYLOAD:
            raise ValueError(f"chunk_frames is {self.chunk_frames}, too many for one chunk")
        _check_samples(self)

    @property
    def frames(self) -> int | None:
        """Frames of each stream, or None while live."""
        if not self.samples:
            return self.samples
        return -(-self.samples // self.hop_length) + self.extra_frames

    @property
    def chunks(self) -> int | None:
        """Chunks with codes, or None while live."""
        return None if self.frames is None else -(-self.frames // self.chunk_frames)

    @property
    def kbps_per_stage(self) -> float:
        """Nominal, of all streams together."""
        return self.sample_rate / self.hop_length * self.bits_per_code * self.streams / 1000

    @property
    def size(self) -> int:
        """Bytes of `to_bytes`."""
        return HEADER_BYTES + (0 if self.entropy is None else _ENTROPY.size)

    def stage_bytes(self, frames: int) -> int:
        """Bytes that one raw stage takes in a chunk of `frames` frames."""
        return payload.stage_bytes(self.streams, frames, self.bits_per_code)

    def payload_bytes(self, frames: int, layers: int) -> int:
        """Bytes of such a chunk's payload; at most, if it is range coded or ragged."""
        if self.version == 1:
            return layers * (self.stage_bytes(frames) + (self.entropy is not None))
        return ragged.longest(self.streams, frames, self.stages, self.bits_per_code)

    def takes(self, length: int, frames: int, layers: int) -> bool:
        """Whether the payload of such a chunk may be so long."""
        longest = self.payload_bytes(frames, layers)
        if self.version == 1 and self.entropy is None:
            return length == longest
        return (
            2 * layers <= length <= longest
            if self.version == 1
            else layers + 3 <= length <= longest
        )

    def seconds(self, frames: int) -> float:
        return frames * self.hop_length / self.sample_rate

    def to_bytes(self) -> bytes:
        """The 52 bytes that a file begins with, or 64 if codes are range coded."""
        body = _HEADER.pack(
            MAGIC,
            self.version,
            CODER_RAW if self.entropy is None else CODER_RANGE,
            self.fingerprint,
            self.sample_rate,
            self.source_rate,
            self.channels,
            self.source_channels,
            self.streams,
            self.hop_length,
            self.bits_per_code,
            self.stages,
            self.extra_frames,
            self.chunk_frames,
            _UNKNOWN if self.samples is None else self.samples,
            _UNKNOWN if self.source_samples is None else self.source_samples,
            0,
        )[:-4]
        body += zlib.crc32(body).to_bytes(4, "little")
        if self.entropy is None:
            return body
        return body + self.entropy + zlib.crc32(self.entropy).to_bytes(4, "little")

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> "Header":
        """Read what `to_bytes` wrote; `name` is the file's, for messages.

        Raises:
            FormatError: not a `.btn` file, another version or coder, damaged, or out of range.
        """
        if data[:4] != MAGIC:
            raise FormatError(
                f"{name}: not a .btn file (it begins with {data[:4].hex() or 'nothing'})"
            )
        if len(data) > 4 and data[4] not in VERSIONS:
            raise FormatError(
                f"{name}: .btn version {data[4]}; this Bittern reads versions {VERSIONS[0]} and "
                f"{VERSIONS[1]}. Update Bittern"
            )
        if len(data) < HEADER_BYTES:
            raise FormatError(
                f"{name}: cut short in the header (byte {len(data)} of {HEADER_BYTES})"
            )
        values = _HEADER.unpack(data[:HEADER_BYTES])
        if zlib.crc32(data[: HEADER_BYTES - 4]) != values[-1]:
            raise FormatError(
                f"{name}: the header is damaged (bytes 0-{HEADER_BYTES - 1}, checksum)"
            )
        if values[2] not in (CODER_RAW, CODER_RANGE):
            raise FormatError(
                f"{name}: codes are packed by coder {values[2]}; this Bittern knows coders "
                f"{CODER_RAW} and {CODER_RANGE}. Update Bittern"
            )
        entropy = None if values[2] == CODER_RAW else _entropy(data[HEADER_BYTES:], name)
        names = [name for name, _, _ in _RANGES]
        samples, source_samples = (None if n == _UNKNOWN else n for n in values[-3:-1])
        fields = dict(zip(names, values[4:-3], strict=True))
        try:
            return cls(
                fingerprint=values[3],
                samples=samples,
                source_samples=source_samples,
                entropy=entropy,
                version=values[1],
                **fields,
            )
        except ValueError as error:
            raise FormatError(f"{name}: the header makes no sense ({error})") from None


def most_chunk_frames(streams: int, bits_per_code: int, stages: int) -> int:
    """Frames whose codes surely fit one payload of either version, at least 1."""
    room = _LONGEST_PAYLOAD - 6 * stages - 6
    most = min(room * 8 // (bits_per_code * stages + 8), _MOST_CHUNK_ROWS)
    return max(most // streams, 1)


# fields between fingerprint and sample counts in the order of the file, with their ranges
_RANGES = (
    ("sample_rate", *RATES),
    ("source_rate", *RATES),
    ("channels", 1, MOST_CHANNELS),
    ("source_channels", 1, MOST_CHANNELS),
    ("streams", 1, 255),
    ("hop_length", 1, 65535),
    ("bits_per_code", 1, 16),
    ("stages", 1, 255),
    ("extra_frames", 0, 255),
    ("chunk_frames", 1, 65535),
)


def read_header(read: Callable[[int], bytes], name: str) -> Header:
    """Read a header of either size with a file's `read`.

    Raises:
        FormatError: see `Header.from_bytes`.
    """
    data = read(HEADER_BYTES)
    if len(data) == HEADER_BYTES and data[:4] == MAGIC and data[5] == CODER_RANGE:
        data += read(_ENTROPY.size)
    return Header.from_bytes(data, name)


def _entropy(data: bytes, name: str) -> bytes:
    if len(data) < _ENTROPY.size:
        raise FormatError(f"{name}: cut short in the header (byte {HEADER_BYTES + len(data)})")
    fingerprint, checksum = _ENTROPY.unpack(data)
    if zlib.crc32(fingerprint) != checksum:
        raise FormatError(f"{name}: the header is damaged (bytes {HEADER_BYTES}-63, checksum)")
    return fingerprint


def _check_samples(header: Header) -> None:
    """Both counts or neither, and samples = ceil(source_samples * sample_rate / source_rate)."""
    samples, source_samples = header.samples, header.source_samples
    if (samples is None) != (source_samples is None):
        raise ValueError("only one of samples and source_samples is known")
    if samples is None or source_samples is None:
        return
    if not (0 <= samples <= _MOST_SAMPLES and 0 <= source_samples <= _MOST_SAMPLES):
        raise ValueError(f"samples are {samples} and {source_samples}, expected 0 to 2^53")
    if samples != -(-source_samples * header.sample_rate // header.source_rate):
        raise ValueError(
            f"{samples} samples at {header.sample_rate} Hz and {source_samples} at "
            f"{header.source_rate} Hz are not the same duration"
        )
