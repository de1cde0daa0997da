"""Which input of a command goes to which output: one file, many, folders, or a list of names."""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from bittern.audio.names import find_audio, is_audio_name
from bittern.errors import ConfigError

PIPE = "-"


def add_files(command: argparse.ArgumentParser, suffix: str) -> None:
    command.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help=f"input, and output if two are given (default: the input's name with {suffix}); "
        "- is standard input or output. With --output-dir many, and folders",
    )
    command.add_argument(
        "--files-from",
        metavar="LIST",
        help="a file with names of more inputs, one a line (or a zero byte after each, as find "
        "-print0 writes them); - is standard input",
    )
    command.add_argument("-o", "--output", metavar="OUT", help="output file, - for standard output")
    command.add_argument(
        "--output-dir",
        metavar="DIR",
        help="where to put outputs of many inputs; what is below the folder that they share, or "
        "that was given, keeps its folders",
    )
    there = command.add_mutually_exclusive_group()
    there.add_argument("-f", "--force", action="store_true", help="overwrite existing files")
    there.add_argument(
        "--skip-existing", action="store_true", help="leave inputs out whose output exists"
    )


def pair_files(args: argparse.Namespace, suffix: str) -> list[tuple[str, str]]:
    """Which input goes to which output.

    Raises:
        ConfigError: the command line does not say, or two inputs would go to one output.
    """
    files: list[str] = [*args.files, *_listed(args.files_from)]
    if not files:
        raise ConfigError("no input; name files, or a list of them with --files-from. See --help")
    if args.output_dir is not None:
        return _pair_in_folder(files, args, suffix)
    if args.files_from is not None:
        raise ConfigError("--files-from goes with --output-dir DIR, for the outputs")
    outputs = files[1:] if args.output is None else [*files[1:], args.output]
    if len(outputs) > 1:
        raise ConfigError("one input and one output; for many inputs give --output-dir DIR")
    if outputs:
        return [(files[0], outputs[0])]
    default = PIPE if files[0] == PIPE else str(_renamed(Path(files[0]), suffix))
    return [(files[0], default)]


def _pair_in_folder(
    files: list[str], args: argparse.Namespace, suffix: str
) -> list[tuple[str, str]]:
    if args.output is not None or PIPE in files:
        raise ConfigError("--output-dir goes with input files only, not with -o or -")
    folder = Path(args.output_dir)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: is not a directory; --output-dir needs one that exists")
    jobs: dict[str, str] = {}  # by output
    for name, place in _placed(dict.fromkeys(files), suffix):
        target = str(folder / _renamed(place, suffix))
        if jobs.setdefault(target, name) != name:
            raise ConfigError(f"{jobs[target]} and {name}: both would become {target}")
    return [(name, target) for target, name in jobs.items()]


def _placed(names: dict[str, None], suffix: str) -> Iterator[tuple[str, Path]]:
    """Each input with its place below the output's folder."""
    alone = [os.path.abspath(name) for name in names if not os.path.isdir(name)]  # noqa: PTH100, PTH112 (kept as typed)
    shared = os.path.commonpath([os.path.dirname(name) for name in alone]) if alone else ""  # noqa: PTH120
    for name in names:
        root = Path(name)
        if not root.is_dir():
            yield name, Path(os.path.relpath(os.path.abspath(name), shared))  # noqa: PTH100
            continue
        coded = sorted(path for path in root.rglob("*.btn") if path.is_file())
        for path in find_audio(root) if suffix == ".btn" else coded:
            yield str(path), path.relative_to(root)


def _listed(name: str | None) -> list[str]:
    """The names in a list."""
    if name is None:
        return []
    try:
        data = sys.stdin.buffer.read() if name == PIPE else Path(name).read_bytes()
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read ({error.strerror})") from None
    lines = data.split(b"\0") if b"\0" in data else data.replace(b"\r\n", b"\n").split(b"\n")
    return [os.fsdecode(line) for line in lines if line]


def _renamed(path: Path, suffix: str) -> Path:
    """The output's name: another ending in place of one that says what the file is, else one more."""
    known = is_audio_name(path) or path.suffix.lower() in (".btn", ".ecdc", ".raw", ".pcm")
    return path.with_suffix(suffix) if known else path.with_name(path.name + suffix)
