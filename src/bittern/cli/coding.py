"""`bittern compress` and `bittern decompress`. Engines are imported when they run."""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from bittern.cli import ecdc
from bittern.cli.batches import add_files, pair_files
from bittern.cli.options import (
    Commands,
    add_coding_options,
    add_command,
    add_engine,
    add_jobs,
    add_model,
    coding_options,
    positive_int,
    seconds,
)
from bittern.cli.ports import (
    PIPE,
    label,
    open_input,
    open_output,
    refuse_recording,
    run_jobs,
    show_progress,
)
from bittern.config import DEFAULT_MODEL, CodingOptions
from bittern.errors import CodecError, ConfigError

if TYPE_CHECKING:
    from tqdm import tqdm

    from bittern.audio import streams as audio
    from bittern.audio.wav import Block
    from bittern.codec import Codec
    from bittern.format.salvage import Gap
    from bittern.pipeline import Receipt


def add_compress(commands: Commands) -> None:
    command = add_command(commands, "compress", _compress, "compress audio files to .btn")
    add_files(command, ".btn")
    add_jobs(command)
    add_coding_options(command)
    add_model(command)
    add_engine(command)
    command.add_argument(
        "--raw-rate",
        type=positive_int,
        metavar="HZ",
        help="standard input is 16-bit samples without a header, at this rate",
    )
    command.add_argument(
        "--raw-channels", type=positive_int, default=1, metavar="N", help="of such input"
    )


def _compress(args: argparse.Namespace) -> int:
    from bittern.codec import load

    jobs = pair_files(args, ".btn")
    for _, target in jobs:
        refuse_recording(target)
    codec = load(args.model, args.device, args.engine)
    _say_model(codec, args)
    codec.share_threads(args.jobs)
    quiet = args.quiet or len(jobs) > 1

    def run(source: str, target: str) -> tuple[str, float]:
        if target.endswith(ecdc.SUFFIX):
            options = CodingOptions(**coding_options(args))
            sound = _audio_input(source, args)
            return ecdc.compress(codec, sound, target, options, force=args.force)
        receipt = _compress_one(codec, source, target, args, quiet=quiet)
        return _describe_coded(receipt), receipt.seconds

    return run_jobs(jobs, args, run)


def _compress_one(
    codec: "Codec", source: str, target: str, args: argparse.Namespace, *, quiet: bool
) -> "Receipt":
    with (
        _audio_input(source, args) as stream,
        open_output(target, force=args.force) as file,
        show_progress(stream.seconds, unit=" s of audio", quiet=quiet) as bar,
    ):
        live = target == PIPE or not file.seekable()
        return codec.compress_stream(_watch(stream, bar), file, live=live, **coding_options(args))


def _watch(stream: "audio.AudioStream", bar: "tqdm") -> "audio.AudioStream":
    """The same audio, of which each block taken is shown in seconds."""

    def blocks() -> "Iterator[Block]":
        for block in stream.blocks:
            yield block
            bar.update(len(block) / stream.sample_rate)

    return replace(stream, blocks=blocks())


def _audio_input(
    source: str, args: argparse.Namespace
) -> "AbstractContextManager[audio.AudioStream]":
    from bittern.audio import streams as audio

    name, pipe = label(source), sys.stdin.buffer
    if source != PIPE:
        return audio.open_audio(Path(source))
    if args.raw_rate:
        return nullcontext(audio.raw_stream(pipe, name, args.raw_rate, args.raw_channels))
    return audio.pipe_stream(pipe, name)


def _describe_coded(receipt: "Receipt") -> str:
    mixed = (
        f", {receipt.source_channels} channels mixed to {receipt.channels}"
        if receipt.source_channels > receipt.channels
        else ""
    )
    return (
        f"{receipt.seconds:.2f} s, {_channels(receipt)}{_stages(receipt)}, "
        f"{receipt.measured_kbps:.2f} kbit/s "
        f"({receipt.file_bytes} bytes, {receipt.ratio:.0f}x smaller than 16-bit PCM{mixed}), "
        f"{receipt.speed:.0f}x real time"
    )


def _stages(receipt: "Receipt") -> str:
    if receipt.fewest_stages == receipt.stages:
        return f"{receipt.stages} stages"
    return (
        f"{receipt.fewest_stages} to {receipt.stages} stages, {receipt.mean_stages:.1f} on average"
    )


def _channels(receipt: "Receipt") -> str:
    return f"{receipt.channels} channels, " if receipt.channels > 1 else ""


def add_decompress(commands: Commands) -> None:
    command = add_command(commands, "decompress", _decompress, "bring .btn files back as audio")
    add_files(command, ".wav")
    add_jobs(command)
    command.add_argument(
        "--stages", type=positive_int, metavar="N", help="decode only the first so many stages"
    )
    command.add_argument(
        "--start", type=seconds, default=0.0, metavar="S", help="seconds to leave out"
    )
    command.add_argument(
        "--duration", type=seconds, metavar="S", help="seconds to decode (default: to the end)"
    )
    command.add_argument(
        "--recover",
        action="store_true",
        help="of damaged files: decode what is intact, conceal the rest and say where it is",
    )
    add_model(command, default="the shipped one that made the file")
    add_engine(command)
    command.add_argument(
        "--raw", action="store_true", help="standard output gets 16-bit samples without a header"
    )


def _decompress(args: argparse.Namespace) -> int:
    from bittern.codec import load

    jobs = pair_files(args, ".wav")
    makers = {source: args.model or _maker(source) for source, _ in jobs}
    codecs = {name: load(name, args.device, args.engine) for name in set(makers.values())}
    for codec in codecs.values():
        _say_model(codec, args)
        codec.share_threads(args.jobs)
    quiet = args.quiet or len(jobs) > 1

    def run(source: str, target: str) -> tuple[str, float]:
        codec = codecs[makers[source]]
        if source.endswith(ecdc.SUFFIX):
            if args.stages or args.start or args.duration is not None or args.recover:
                raise ConfigError(f"{source}: {ecdc.SUFFIX} files come back whole; give no part")
            return ecdc.decompress(codec, source, lambda audio: _write(audio, target, args))
        receipt = _decompress_one(codec, source, target, args, quiet=quiet)
        return _describe_decoded(receipt), receipt.seconds

    return run_jobs(jobs, args, run)


def _maker(source: str) -> str:
    """The shipped model that made a file; the default one where that cannot be told."""
    from bittern.checkpoint import find_maker
    from bittern.format.container import Reader

    try:
        if source != PIPE and Path(source).is_file():
            with open_input(source) as file:
                return find_maker(Reader(file, source).header.fingerprint) or DEFAULT_MODEL
    except CodecError:
        pass  # told when the file is decoded
    return DEFAULT_MODEL


def _decompress_one(
    codec: "Codec", source: str, target: str, args: argparse.Namespace, *, quiet: bool
) -> "Receipt":
    with _open_container(source, args) as file:
        stream = codec.decompress_stream(
            file,
            label(source),
            stages=args.stages,
            start=args.start,
            duration=args.duration,
            recover=args.recover,
        )
        if args.start and stream.samples == 0:
            raise ConfigError(f"{label(source)}: ends before --start {args.start:g}")
        for gap in stream.lost:
            _say_lost(gap, source, args)
        with show_progress(stream.seconds, unit=" s of audio", quiet=quiet) as bar:
            _write(_watch(stream, bar), target, args)
    return stream.receipt()


def _write(stream: "audio.AudioStream", target: str, args: argparse.Namespace) -> None:
    from bittern.audio import streams as audio

    if target != PIPE:
        audio.write_stream(Path(target), stream, replace=args.force)
        return
    with open_output(target, force=args.force) as pipe:
        audio.write_pipe(pipe, stream, raw=args.raw)


@contextmanager
def _open_container(source: str, args: argparse.Namespace) -> Generator[BinaryIO, None, None]:
    """The input; to recover a pipe's data it is put into a temporary file first."""
    with open_input(source) as file:
        if not args.recover or file.seekable():
            yield file
            return
        with tempfile.TemporaryFile() as spool:
            shutil.copyfileobj(file, spool)
            spool.seek(0)
            yield spool


def _say_lost(gap: "Gap", source: str, args: argparse.Namespace) -> None:
    if args.quiet:
        return
    last = gap.index + gap.chunks
    which = f"chunk {last}" if gap.chunks == 1 else f"chunks {gap.index + 1}-{last}"
    print(
        f"bittern: {label(source)}: lost {gap.start:.2f}-{gap.end:.2f} s ({which}), concealed",
        file=sys.stderr,
    )


def _describe_decoded(receipt: "Receipt") -> str:
    return (
        f"{receipt.seconds:.2f} s at {receipt.sample_rate} Hz, channels: {receipt.channels}, from "
        f"{receipt.measured_kbps:.2f} kbit/s ({receipt.file_bytes} bytes), "
        f"{receipt.speed:.0f}x real time"
    )


def _say_model(codec: "Codec", args: argparse.Namespace) -> None:
    if args.verbose:
        print(
            f"{codec.config.name} ({codec.fingerprint.hex()}) on {codec.device}: "
            f"{codec.sample_rate} Hz, {codec.frame_rate:g} frames/s, {codec.stages} stages of "
            f"{codec.config.kbps_per_stage:g} kbit/s",
            file=sys.stderr,
        )
