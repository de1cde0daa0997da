"""What the commands have in common on the command line, and how their errors are told."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NoReturn

from bittern.config import (
    DEFAULT_MODEL,
    DEFAULT_QUALITY,
    SEARCH_WIDTH,
    WIDEST_SEARCH,
    CodingOptions,
)
from bittern.errors import CodecError, one_line

_USAGE_ERROR = 1


class Parser(argparse.ArgumentParser):
    """Wrong usage exits with 1; 2 says that an input file is bad."""

    def error(self, message: str) -> NoReturn:
        self.exit(_USAGE_ERROR, f"{self.prog}: {message}. See {self.prog} --help\n")


if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[Parser]
else:
    Commands = object


def report(error: CodecError, args: argparse.Namespace) -> int:
    if args.verbose >= 2:
        raise error
    print(f"bittern: {one_line(error)}", file=sys.stderr)
    return error.exit_code


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:])
    command.set_defaults(run=run)
    talk = command.add_mutually_exclusive_group()
    talk.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    talk.add_argument(
        "-v", "--verbose", action="count", default=0, help="say more; -vv: tracebacks of errors"
    )
    return command


def add_jobs(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--jobs",
        type=positive_int,
        default=1,
        metavar="N",
        help="files to work on at once (default: %(default)s); they share the processor's threads",
    )


def add_model(command: argparse.ArgumentParser, *, default: str | None = None) -> None:
    """With `default` what is told of the model where none is named, which the command then finds."""
    command.add_argument(
        "--model",
        default=None if default else DEFAULT_MODEL,
        metavar="NAME_OR_FOLDER",
        help=f"a shipped model or the folder of one (default: {default or DEFAULT_MODEL})",
    )
    add_device(command)


def add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1; auto: a GPU if there is one"
    )


def add_engine(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--engine",
        choices=["auto", "torch", "onnx"],
        default="auto",
        help="what runs the networks; onnx needs no torch; auto: torch if it is installed",
    )


def add_bitrate(group: "argparse._MutuallyExclusiveGroup", help_text: str) -> None:
    group.add_argument(
        "--bitrate", dest="bitrate_kbps", type=positive_float, metavar="KBPS", help=help_text
    )


def add_coding_options(command: argparse.ArgumentParser) -> None:
    """An option for each field of `CodingOptions`, of the same default."""
    rate = command.add_mutually_exclusive_group()
    add_bitrate(rate, "the average of the file in kbit/s, all that is in it counted")
    rate.add_argument(
        "--quality",
        type=positive_float,
        metavar="Q",
        help=f"the same from file to file, as many bits as that takes: 1 up to the model's stages, "
        f"of which frames of speech have Q on average (default: {DEFAULT_QUALITY:g}, about 5.4 kbit/s)",
    )
    rate.add_argument(
        "--stages", type=positive_int, metavar="N", help="codebook stages, the same for each frame"
    )
    command.add_argument(
        "--cbr",
        action="store_true",
        help="with --bitrate: the same stages for each frame, as many as fit; for calls, and where "
        "sizes must not tell when somebody speaks",
    )
    add_search_width(command)
    command.add_argument(
        "--coder",
        choices=["auto", "range", "raw"],
        default=CodingOptions.coder,
        help="range: smaller, without loss, by the model's entropy.safetensors; raw: without; "
        "auto: range if the model has one",
    )
    command.add_argument(
        "--mono", action="store_true", help="mix channels down; otherwise each is coded"
    )
    command.add_argument(
        "--chunk-seconds",
        type=positive_float,
        default=CodingOptions.chunk_seconds,
        metavar="S",
        help="audio to a chunk; small for low delay on pipes (default: %(default)s)",
    )


def coding_options(args: argparse.Namespace) -> dict[str, Any]:
    """What `add_coding_options` was told, by the names of the fields."""
    return {field.name: getattr(args, field.name) for field in fields(CodingOptions)}


def positive_int(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return value


def add_search_width(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--search-width",
        type=search_width,
        default=SEARCH_WIDTH,
        metavar="N",
        help="candidates kept from stage to stage: more sound better at the same bitrate and encode "
        "more slowly (default: %(default)s)",
    )


def search_width(text: str) -> int:
    value = positive_int(text)
    if value > WIDEST_SEARCH:
        raise argparse.ArgumentTypeError(f"{text!r} is wider than {WIDEST_SEARCH}")
    return value


def positive_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and below 1e9")
    return value


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time in seconds")
    return value
