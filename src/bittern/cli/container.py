"""`bittern info`, `verify`, `trim`, `cut` and `cat`: what works on a file's bytes. No torch here.

`cut` and `cat` may have to code codes of a range coded file anew; the entropy model that needs is
looked for only then.
"""

import argparse
import json
import math
import sys
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import BinaryIO

from bittern import checkpoint
from bittern.cli.options import Commands, add_command, add_rate, report, seconds
from bittern.cli.ports import PIPE, label, open_input, open_output, refuse_unsafe
from bittern.errors import CodecError, ConfigError
from bittern.format import container as bitstream
from bittern.format import edit as editing


def add_info(commands: Commands) -> None:
    command = add_command(commands, "info", _info, "say what .btn files hold")
    command.add_argument("files", nargs="+", metavar="FILE")
    command.add_argument("--json", action="store_true", help="for programs")


def _info(args: argparse.Namespace) -> int:
    described = [_describe(name) for name in args.files]
    if args.json:
        print(json.dumps(described[0] if len(described) == 1 else described, indent=2))
        return 0
    for facts in described:
        for key, value in facts.items():
            print(f"{key.replace('_', ' ') + ':':19}{'unknown' if value is None else value}")
    return 0


def _describe(name: str) -> dict[str, str | int | float | list[float] | None]:
    """What the header says; the file is walked if it is range coded or its length is left open."""
    with open_input(name) as file:
        reader = bitstream.Reader(file, label(name))
        saved = None
        if reader.header.entropy and reader.header.version == 1:
            saved = _Saved(reader.header)
        if reader.header.samples is None or name == PIPE or saved:
            for chunk in reader:
                if saved:
                    saved.count(chunk, reader.header)
        size = reader.bytes_read if name == PIPE else Path(name).stat().st_size
    header = reader.header
    facts = asdict(header)
    seconds = (header.source_samples or 0) / header.source_rate
    return {
        "file": label(name),
        "version": header.version,
        "seconds": round(seconds, 6),
        "measured_kbps": round(size * 8 / 1000 / seconds, 3) if seconds else None,
        "nominal_kbps": round(header.kbps_per_stage * header.stages, 3),
        "file_bytes": size,
        **{
            key: value
            for key, value in facts.items()
            if key not in ("fingerprint", "entropy", "version")
        },
        "frames": header.frames,
        "chunks": header.chunks,
        "model_fingerprint": header.fingerprint.hex(),
        **({} if saved is None else saved.facts(header)),
    }


class _Saved:
    """What range coding saves in a file, stage by stage."""

    def __init__(self, header: bitstream.Header) -> None:
        self._bytes = [0] * header.stages
        self._raw = [0] * header.stages

    def count(self, chunk: bitstream.Chunk, header: bitstream.Header) -> None:
        raw = header.stage_bytes(chunk.frames)
        before = 0
        for stage in range(chunk.layers):
            end = len(bitstream.prefix(chunk, header, stage + 1))
            self._bytes[stage] += end - before
            self._raw[stage] += raw
            before = end

    def facts(self, header: bitstream.Header) -> dict[str, "str | float | list[float]"]:
        assert header.entropy is not None
        pairs = list(zip(self._bytes, self._raw, strict=True))
        whole = sum(self._raw)
        bits = [round((1 - own / max(raw, 1)) * header.bits_per_code, 2) for own, raw in pairs]
        return {
            "entropy_model": header.entropy.hex(),
            "saved_percent": round(100 * (1 - sum(self._bytes) / whole), 1) if whole else 0.0,
            "saved_bits_of_code": bits,
        }


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
    add_rate(command, required=True)
    command.add_argument("-f", "--force", action="store_true", help="overwrite an existing file")


def _trim(args: argparse.Namespace) -> int:
    refuse_unsafe(args.input, args.output, force=args.force)
    with open_input(args.input) as file:
        reader = bitstream.Reader(file, label(args.input))
        header = reader.header
        stages = args.stages or int(args.bitrate_kbps / header.kbps_per_stage + 1e-9)
        if not 1 <= stages <= header.stages:
            raise ConfigError(
                f"{reader.name}: has {header.stages} stages of {header.kbps_per_stage:g} kbit/s; "
                f"cannot keep {stages}"
            )
        with open_output(args.output) as out:
            live = args.output == PIPE or not out.seekable()
            writer = editing.trim(reader, out, stages, live=live)
    if not args.quiet:
        print(
            f"{label(args.input)} -> {label(args.output, out=True)}: {header.stages} -> {stages} "
            f"stages, {reader.bytes_read} -> {writer.bytes_written} bytes",
            file=sys.stderr,
        )
    return 0


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
        with open_output(args.output) as out:
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
        with open_output(args.output) as out:
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
