"""`bittern info`, `verify`, `trim`, `cut` and `cat`: what works on a file's bytes. No torch here.

`cut` and `cat` may have to code codes of a range coded file anew; the entropy model that needs is
looked for only then.
"""

import argparse
import json
import math
import shutil
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bittern import checkpoint
from bittern.cli.options import (
    Commands,
    add_bitrate,
    add_command,
    positive_int,
    report,
    seconds,
)
from bittern.cli.ports import PIPE, label, open_input, open_output, refuse_unsafe
from bittern.errors import CodecError, ConfigError
from bittern.format import container as bitstream
from bittern.format import edit as editing
from bittern.model.rate import Tally


def add_info(commands: Commands) -> None:
    command = add_command(commands, "info", _info, "say what .btn files hold")
    command.add_argument("files", nargs="+", metavar="FILE")
    command.add_argument("--json", action="store_true", help="for programs")


def _info(args: argparse.Namespace) -> int:
    described, code = [], 0
    for name in args.files:
        try:
            described.append(_describe(name))
        except CodecError as error:
            code = report(error, args)
    if args.json and described:
        print(json.dumps(described[0] if len(args.files) == 1 else described, indent=2))
        return code
    for facts in described:
        for key, value in facts.items():
            print(f"{key.replace('_', ' ') + ':':21}{'unknown' if value is None else value}")
    return code


def _describe(name: str) -> dict[str, Any]:
    """What the header says, and what the chunks do."""
    with open_input(name) as file:
        reader = bitstream.Reader(file, label(name))
        walk = _Walk(reader.header)
        for chunk in reader:
            walk.count(chunk)
    header, size = reader.header, reader.bytes_read
    facts = asdict(header)
    for key in ("version", "fingerprint", "entropy"):
        del facts[key]
    seconds = (header.source_samples or 0) / header.source_rate
    return {
        "file": label(name),
        "version": header.version,
        "seconds": round(seconds, 6),
        "measured_kbps": round(size * 8 / 1000 / seconds, 3) if seconds else None,
        "nominal_kbps": round(header.kbps_per_stage * walk.tally.mean, 3),
        "file_bytes": size,
        **facts,
        "frames": header.frames,
        "chunks": header.chunks,
        "model_fingerprint": header.fingerprint.hex(),
        **walk.facts(),
    }


class _Walk:
    """What chunks say: stages by frame, bits by second, and what range coding saves."""

    def __init__(self, header: bitstream.Header) -> None:
        self.tally = Tally()
        self._header = header
        self._bytes = self._raw = 0.0
        self._highest = 0.0  # bits in any second
        self._last = np.zeros(round(header.sample_rate / header.hop_length))  # bits by frame

    def count(self, chunk: bitstream.Chunk) -> None:
        header = self._header
        counts = bitstream.stage_counts(chunk, header)
        self.tally.note(counts)
        self._bytes += len(chunk.payload)
        self._raw += counts.sum() * header.bits_per_code / 8
        self._note_seconds(chunk, counts.sum(axis=0))

    def _note_seconds(self, chunk: bitstream.Chunk, stages: NDArray[np.int64]) -> None:
        """Frames of a chunk share its bits by their stages, [F], of all streams together."""
        bits = (
            8
            * (bitstream.CHUNK_OVERHEAD_BYTES + len(chunk.payload))
            * stages
            / max(stages.sum(), 1)
        )
        window = len(self._last)
        sums = np.cumsum(np.concatenate([[0.0], self._last, bits]))
        self._highest = max(self._highest, float((sums[window:] - sums[:-window]).max()))
        self._last = np.concatenate([self._last, bits])[-window:]

    def facts(self) -> dict[str, Any]:
        entropy, (fewest, most) = self._header.entropy, self.tally.range
        facts: dict[str, Any] = {
            "highest_second_kbps": round(self._highest / 1000, 3),
            "fewest_stages": fewest,
            "mean_stages": round(self.tally.mean, 2),
            "most_stages": most,
        }
        if entropy is not None:
            facts["entropy_model"] = entropy.hex()
            facts["saved_percent"] = round(100 * (1 - self._bytes / max(self._raw, 1)), 1)
        return facts


def add_verify(commands: Commands) -> None:
    command = add_command(commands, "verify", _verify, "check every checksum of .btn files")
    command.add_argument("files", nargs="+", metavar="FILE")


def _verify(args: argparse.Namespace) -> int:
    code = 0
    for name in args.files:
        try:
            with open_input(name) as file:
                reader = bitstream.Reader(file, label(name))
                for _ in reader:
                    pass
        except CodecError as error:
            code = report(error, args)
            continue
        if not args.quiet:
            header = reader.header
            seconds = (header.source_samples or 0) / header.source_rate
            print(f"{label(name)}: intact, {header.chunks} chunks, {seconds:.2f} s")
    return code


def add_trim(commands: Commands) -> None:
    command = add_command(
        commands, "trim", _trim, "lower the bitrate of a .btn file, without a model"
    )
    command.add_argument("input", metavar="IN")
    command.add_argument("output", metavar="OUT")
    rate = command.add_mutually_exclusive_group(required=True)
    add_bitrate(rate, "about so many kbit/s on average; with a file of --cbr at most, nominally")
    rate.add_argument(
        "--stages", type=positive_int, metavar="N", help="stages to keep, of a file of --cbr"
    )
    command.add_argument("-f", "--force", action="store_true", help="overwrite an existing file")


def _trim(args: argparse.Namespace) -> int:
    refuse_unsafe(args.input, args.output, force=args.force)
    with open_input(args.input) as file:
        reader = bitstream.Reader(file, label(args.input))
        with open_output(args.output, force=args.force) as out:
            live = args.output == PIPE or not out.seekable()
            if reader.header.version == 1:
                line = _trim_stages(reader, out, args, live)
            else:
                line = _trim_share(reader, file, out, args, live)
    if not args.quiet:
        print(f"{label(args.input)} -> {label(args.output, out=True)}: {line}", file=sys.stderr)
    return 0


def _trim_stages(
    reader: bitstream.Reader, out: BinaryIO, args: argparse.Namespace, live: bool
) -> str:
    header = reader.header
    stages = args.stages or int(args.bitrate_kbps / header.kbps_per_stage + 1e-9)
    if not 1 <= stages <= header.stages:
        raise ConfigError(
            f"{reader.name}: has {header.stages} stages of {header.kbps_per_stage:g} kbit/s; "
            f"cannot keep {stages}"
        )
    written = editing.trim(reader, out, stages, live=live).bytes_written
    return f"{header.stages} -> {stages} stages, {reader.bytes_read} -> {written} bytes"


def _trim_share(
    reader: bitstream.Reader, file: BinaryIO, out: BinaryIO, args: argparse.Namespace, live: bool
) -> str:
    """Trim to a bitrate; what the file has is known at its end only, and so it is read twice."""
    if args.stages:
        raise ConfigError(f"{reader.name}: each frame has stages of its own; give --bitrate")
    with tempfile.TemporaryFile() as copy:
        copy.write(reader.header.to_bytes())
        shutil.copyfileobj(file, copy)
        copy.seek(0)
        first = bitstream.Reader(copy, reader.name)
        for _ in first:
            pass
        size, header = first.bytes_read, first.header
        seconds = max((header.source_samples or 0) / header.source_rate, 1e-9)
        kbps = 8 * size / 1000 / seconds
        if args.bitrate_kbps > kbps:
            raise ConfigError(f"{reader.name}: has {kbps:.2f} kbit/s; give less to trim to")
        copy.seek(0)
        again = bitstream.Reader(copy, reader.name)
        writer = editing.trim_to_share(again, out, args.bitrate_kbps / kbps, live=live)
    trimmed = 8 * writer.bytes_written / 1000 / seconds
    return f"{kbps:.2f} -> {trimmed:.2f} kbit/s, {size} -> {writer.bytes_written} bytes"


def add_cut(commands: Commands) -> None:
    command = add_command(commands, "cut", _cut, "cut a span out of a .btn file, on chunk borders")
    command.add_argument("input", metavar="IN")
    command.add_argument("output", metavar="OUT")
    command.add_argument("--start", type=seconds, default=0.0, metavar="S", help="seconds")
    command.add_argument("--duration", type=seconds, metavar="S", help="default: to the end")
    _add_entropy_model(command)
    command.add_argument("-f", "--force", action="store_true", help="overwrite an existing file")


def _cut(args: argparse.Namespace) -> int:
    refuse_unsafe(args.input, args.output, force=args.force)
    with open_input(args.input) as file:
        reader = _reader(file, label(args.input), args)
        each = reader.header.seconds(reader.header.chunk_frames)
        first = int(args.start / each + 1e-9)
        end = None
        if args.duration is not None:
            end = max(math.ceil((args.start + args.duration) / each - 1e-9), first + 1)
        with open_output(args.output, force=args.force) as out:
            live = args.output == PIPE or not out.seekable()
            writer = editing.cut(reader, out, first, end, live=live)
    if not args.quiet:
        header = writer.header
        length = (header.source_samples or 0) / header.source_rate
        print(
            f"{label(args.input)} -> {label(args.output, out=True)}: {length:.2f} s from "
            f"{first * each:.2f} s on, {writer.bytes_written} bytes",
            file=sys.stderr,
        )
    return 0


def add_cat(commands: Commands) -> None:
    command = add_command(commands, "cat", _cat, "join .btn files of one model and bitrate")
    command.add_argument("files", nargs="+", metavar="FILE")
    command.add_argument("-o", "--output", required=True, metavar="OUT")
    _add_entropy_model(command)
    command.add_argument("-f", "--force", action="store_true", help="overwrite an existing file")


def _cat(args: argparse.Namespace) -> int:
    for name in args.files:
        refuse_unsafe(name, args.output, force=args.force)
    with ExitStack() as stack:
        readers = [
            _reader(stack.enter_context(open_input(name)), label(name), args) for name in args.files
        ]
        with open_output(args.output, force=args.force) as out:
            live = args.output == PIPE or not out.seekable()
            writer = editing.cat(readers, out, live=live)
    if not args.quiet:
        header = writer.header
        length = (header.source_samples or 0) / header.source_rate
        print(
            f"{len(readers)} files -> {label(args.output, out=True)}: {length:.2f} s, "
            f"{writer.bytes_written} bytes",
            file=sys.stderr,
        )
    return 0


def _add_entropy_model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model",
        metavar="NAME_OR_FOLDER",
        help="the model that made the input, should range coded codes have to be coded anew "
        "(default: whichever shipped model it is)",
    )


def _reader(file: BinaryIO, name: str, args: argparse.Namespace) -> bitstream.Reader:
    find = partial(checkpoint.find_entropy, name=name, model=args.model)
    return bitstream.Reader(file, name, find_coder=find)
