"""What every codec does with files and streams of bytes, by whichever engine. No torch here."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from bittern import pipeline
from bittern.audio import streams as audio
from bittern.audio.atomic import atomic_file, refuse_same_file
from bittern.audio.streams import AudioStream
from bittern.checkpoint import Checkpoint
from bittern.config import CodingOptions
from bittern.format import container
from bittern.format.erasures import BurstLoss
from bittern.pipeline import DecodedStream, Engine, Receipt


@dataclass(frozen=True, kw_only=True, eq=False)
class FileCodec(Checkpoint):
    """A checkpoint with an engine; `tensors.py` and `arrays.py` add what works on waveforms and codes."""

    engine: Engine = field(repr=False)

    @property
    def sample_rate(self) -> int:
        """Hz, of the waveforms that `encode` takes and `decode` gives."""
        return self.config.sample_rate

    @property
    def channels(self) -> int:
        return self.config.channels

    @property
    def hop_length(self) -> int:
        """Samples to one frame."""
        return self.config.hop_length

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.config.frame_rate

    @property
    def stages(self) -> int:
        """K, the most stages that a frame can be coded with."""
        return self.config.quantizer.stages

    def bitrate_kbps(self, stages: int | None = None) -> float:
        """The nominal bitrate of so many stages (by default all), for each stream of codes."""
        return CodingOptions(stages=stages).count_stages(self.config) * self.config.kbps_per_stage

    def share_threads(self, jobs: int) -> None:
        """Give each of so many jobs its part of the processor's threads."""
        self.engine.share_threads(jobs)

    def compress_file(self, source: str | Path, target: str | Path, **options: Any) -> Receipt:
        """Compress an audio file; the target is replaced, whole or not at all.

        Raises:
            AudioError: the source cannot be read or used.
            CodecError: the target cannot be written, or is the source.
            ConfigError: see `compress`.
        """
        refuse_same_file(Path(source), Path(target))
        with audio.open_audio(Path(source)) as stream, atomic_file(Path(target)) as file:
            return self.compress_stream(stream, file, live=not file.seekable(), **options)

    def compress_stream(
        self, source: AudioStream, file: BinaryIO, *, live: bool = False, **options: Any
    ) -> Receipt:
        """Compress audio as it comes, writing each chunk as soon as it is full.

        Args:
            source: read to its end.
            file: where to write.
            live: `file` cannot be gone back in, as a pipe; it is flushed after each chunk.
            options: see `compress`.

        Raises:
            AudioError, ConfigError: see `compress`.
        """
        return pipeline.compress(
            self.engine, self, source, file, CodingOptions(**options), live=live
        )

    def decompress_file(self, source: str | Path, target: str | Path, **options: Any) -> Receipt:
        """Bring a `.btn` file back as .wav (16 bit), .flac or .ogg, whole or not at all.

        Raises:
            FormatError, ModelMismatchError: see `decompress`.
            AudioError: the target's format is none of these.
            CodecError: the target cannot be written, or is the source.
        """
        refuse_same_file(Path(source), Path(target))
        with container.open_file(Path(source)) as file:
            stream = self.decompress_stream(file, str(source), **options)
            audio.write_stream(Path(target), stream)
        return stream.receipt()

    def decompress_stream(self, file: BinaryIO, name: str, **options: Any) -> DecodedStream:
        """Decompress as bytes come: read the header now, and the rest as `blocks` are taken.

        Args:
            file: a `.btn` file or a pipe with one.
            name: for messages.
            options: `stages`, to decode only the first so many; `start` and `duration` in seconds,
                for a part that equals that of the whole; `recover`, to conceal what is damaged (the
                file must be able to seek; `lost` of what is returned names the spans). All are
                told in `pipeline.decompress`.

        Raises:
            FormatError, ModelMismatchError: see `decompress`; also from `blocks`.
        """
        return pipeline.decompress(self.engine, self, file, name, **options)

    def simulate_loss(
        self, file: BinaryIO, name: str, loss: BurstLoss, **options: Any
    ) -> DecodedStream:
        """Decompress as if frames or chunks had been lost; `silent` does not conceal them."""
        return self.decompress_stream(file, name, loss=loss, **options)
