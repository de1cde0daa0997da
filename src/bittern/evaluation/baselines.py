"""Codecs to compare with, and the one place to add the next: a line in `TOOLS` or `BASELINES`.

Each codes and decodes for real, and the bitrate is what its file holds.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from bittern import checkpoint
from bittern.errors import ConfigError
from bittern.evaluation import library
from bittern.evaluation.systems import Family, model_family
from bittern.evaluation.tools import Tool, ToolFamily

# Encoders stand at their own defaults (for Opus: variable rate, complexity 10), but for mono.
TOOLS = {
    "opus": Tool(
        "Opus",
        "opusenc --quiet --bitrate {rate} {in} {code}"
        " && opusdec --quiet --no-dither --rate {sample_rate} {code} {out}",
        suffix=".opus",
        package="opus-tools",
        rates=library.OPUS_RATES,
        about="opusenc --version",
        libraries=("libopus",),
    ),
    "nolace": Tool(  # whose network works on wideband packets only: 4008=1103 forces them
        "Opus, NoLACE decoder",
        "opusenc --quiet --set-ctl-int 4008=1103 --bitrate {rate} {in} {code}"
        " && node {nolace} {code} {out}",
        suffix=".opus",
        package="opus-tools and nodejs",
        rates=("6", "8", "9", "12"),
        about="opusenc --version && node {nolace} --version",
        libraries=("libopus", "ogg-opus-decoder"),
    ),
    "mp3": Tool(
        "MP3",
        "lame --quiet -m m -b {rate} {in} {code} && lame --quiet --decode {code} {out}",
        suffix=".mp3",
        package="lame",
        rates=("8", "16", "24"),
        about="lame --version",
        libraries=("LAME",),
    ),
    "aac": Tool(
        "AAC",
        "ffmpeg -nostdin -loglevel error -i {in} -c:a aac -b:a {rate}k {code}"
        " && ffmpeg -nostdin -loglevel error -i {code} {out}",
        suffix=".m4a",
        package="ffmpeg",
        rates=("8", "16", "24"),
        about="ffmpeg -version",
        libraries=("ffmpeg",),
    ),
    "codec2": Tool(
        "Codec 2",
        "c2enc {bps} {in} {code} && c2dec {bps} {code} {out}",
        package="codec2",
        rates=("3.2",),
        sample_rate=8000,
        raw=True,
    ),
}


def _tool(name: str, rates: Sequence[str] | None) -> Family:
    return ToolFamily.of(TOOLS[name], rates or ())


def _opus(rates: Sequence[str] | None) -> Family:
    """By a current libopus, if its package is installed; otherwise by opusenc with its own."""
    return library.opus(rates) if library.opus_installed() else _tool("opus", rates)


# All that can be asked for by name; makes a family of the rates asked for (kbit/s), or of its own.
BASELINES: dict[str, Callable[[Sequence[str] | None], Family]] = {
    **{name: functools.partial(_tool, name) for name in TOOLS},
    "opus": _opus,
}


def parse(text: str) -> Family:
    """A family from the command line.

    Args:
        text: `opus`, `opus=6,12`, `mycodec.py=1.5,3` (see `library.py`), a checkpoint's folder such as
            `encodec=6`, or `'name: enc {in} {code} && dec {code} {out}'`.

    Raises:
        ConfigError: none of these, an unknown name, or a bad rate.
        ModelError: a checkpoint that cannot be loaded.
    """
    if "{" in text:
        return _parse_command(text)
    name, equals, listed = text.partition("=")
    path = Path(name)
    rates = [rate.strip() for rate in listed.split(",")] if equals else None
    for rate in rates or ():
        if not rate.replace(".", "", 1).isdigit() or float(rate) <= 0:
            raise ConfigError(f"baseline {text!r}: {rate!r} is not a rate in kbit/s")
    if name in BASELINES:
        return BASELINES[name](rates)
    if path.suffix == ".py" and path.is_file():
        return library.from_file(path, rates)
    if (path / checkpoint.CONFIG_FILE).is_file():
        return _checkpoint(path, rates)
    raise ConfigError(
        f"baseline {name!r} is not known; give {', '.join(BASELINES)}, a file of Python, a "
        "checkpoint's folder, or 'name: enc {in} {code} && dec {code} {out}'"
    )


def _checkpoint(folder: Path, rates: Sequence[str] | None) -> Family:
    """Another codec's weights in Bittern, coded as it does: the nearest codeword at each stage."""
    config = checkpoint.read_config(folder)
    stages = [config.stages_for(float(rate)) for rate in rates] if rates else None
    return replace(
        model_family(str(folder), stages, search_width=1), name=config.name, is_model=False
    )


def _parse_command(text: str) -> ToolFamily:
    label, colon, command = text.partition(":")
    needed = ("{in}", "{code}", "{out}")
    if not colon or not label.strip() or not all(word in command for word in needed):
        raise ConfigError(
            f"baseline {text!r} lacks a name or one of {', '.join(needed)}; "
            "give 'name: enc {in} {code} && dec {code} {out}'"
        )
    try:
        return ToolFamily.of(Tool(label.strip(), command.strip()))
    except ValueError as error:
        raise ConfigError(f"baseline {text!r}: {error}") from None
