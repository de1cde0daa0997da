"""Other codecs, run for real as subprocesses: Opus, MP3, AAC, Codec 2, or any command given.

Each encodes a 16-bit WAV file and decodes its own file again; the bitrate is what the file holds.
"""

import functools
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr

from bittern.audio import streams as audio
from bittern.errors import AudioError, ConfigError, FormatError
from bittern.evaluation import payload
from bittern.evaluation.clips import Clip, to_int16
from bittern.evaluation.peers import RATES as ENCODEC_RATES
from bittern.evaluation.peers import EncodecFamily
from bittern.evaluation.systems import Coded, CodingFailure, System

TIMEOUT_SECONDS = 300  # for one clip
_BUILTINS = ("cd", "echo", "exit", "export", "set", "test", "true")  # of the shell: no programs


@dataclass(frozen=True)
class Tool:
    """How to run a codec: a shell line with {in}, {code}, {out} and {rate} (kbit/s) or {bps}."""

    label: str
    command: str
    suffix: str = ".bin"  # of the compressed file
    package: str = ""  # Debian's
    rates: tuple[str, ...] = ()  # kbit/s, by default
    sample_rate: int | None = None  # Hz, that it must be given; None for the clip's own
    raw: bool = False  # takes and gives 16-bit samples without a header, mono

    @property
    def programs(self) -> list[str]:
        """The commands of the line, in order of first use.

        Raises:
            ValueError: a quotation is not closed.
        """
        lexer = shlex.shlex(self.command, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        found: list[str] = []
        begins = True  # whether the next word is a command
        for word in lexer:
            if word in ("&&", "||", "|", ";", "&"):
                begins = True
            elif begins and "=" not in word:  # not a variable's assignment
                found.append(word)
                begins = False
        return list(dict.fromkeys(word for word in found if word not in _BUILTINS))

    @property
    def missing(self) -> list[str]:
        return [program for program in self.programs if shutil.which(program) is None]


# Encoders stand at their own defaults (for Opus: variable rate, complexity 10), but for mono.
TOOLS = {
    "opus": Tool(
        "Opus",
        "opusenc --quiet --bitrate {rate} {in} {code}"
        " && opusdec --quiet --no-dither --rate {sample_rate} {code} {out}",
        suffix=".opus",
        package="opus-tools",
        rates=("6", "8", "12", "16", "24"),
    ),
    "mp3": Tool(
        "MP3",
        "lame --quiet -m m -b {rate} {in} {code} && lame --quiet --decode {code} {out}",
        suffix=".mp3",
        package="lame",
        rates=("8", "16", "24"),
    ),
    "aac": Tool(
        "AAC",
        "ffmpeg -nostdin -loglevel error -i {in} -c:a aac -b:a {rate}k {code}"
        " && ffmpeg -nostdin -loglevel error -i {code} {out}",
        suffix=".m4a",
        package="ffmpeg",
        rates=("8", "16", "24"),
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


@dataclass(frozen=True)
class ToolFamily:
    """A codec's command at one or several rates."""

    tool: Tool
    rates: tuple[str, ...]  # kbit/s; empty for a command without {rate}
    version: str  # of the program, or what else tells runs apart
    is_model: bool = False

    @property
    def name(self) -> str:
        return self.tool.label

    @property
    def missing(self) -> str | None:
        """What to say when its programs are not all on the PATH; None when they are."""
        missing = self.tool.missing
        if not missing:
            return None
        package = self.tool.package
        advice = f"; install Debian's package {package}" if package else ""
        return f"{self.name}: {' and '.join(missing)} not found on the PATH{advice}"

    @property
    def systems(self) -> tuple[System, ...]:
        return tuple(
            System(
                self.tool.label,
                f"{rate} kbit/s" if rate else "",
                f"{self.version} | {self.tool.command} | {rate}",
            )
            for rate in self.rates or ("",)
        )

    def code(self, clip: Clip, wanted: Sequence[System]) -> Iterator[Coded | CodingFailure]:
        for system, rate in zip(self.systems, self.rates or ("",), strict=True):
            if system not in wanted:
                continue
            with tempfile.TemporaryDirectory(prefix="bittern-") as folder:
                try:
                    yield _run(self.tool, rate, clip, system, Path(folder))
                except (AudioError, FormatError, OSError) as error:
                    yield CodingFailure(system, str(error).replace(folder, "").strip())


def parse(text: str) -> ToolFamily | EncodecFamily:
    """A family from the command line: `opus`, `opus=6,12` or `'name: enc {in} {code} && ...'`.

    Raises:
        ConfigError: neither form, an unknown name, or a bad rate.
    """
    if "{" in text:
        label, colon, command = text.partition(":")
        needed = ("{in}", "{code}", "{out}")
        if not colon or not label.strip() or not all(word in command for word in needed):
            raise ConfigError(
                f"baseline {text!r} lacks a name or one of {', '.join(needed)}; "
                "give 'name: enc {in} {code} && dec {code} {out}'"
            )
        tool = Tool(label.strip(), command.strip())
        try:
            programs = tool.programs
        except ValueError as error:
            raise ConfigError(f"baseline {text!r}: {error}") from None
        return ToolFamily(tool, (), version=" ".join(programs))
    name, equals, listed = text.partition("=")
    if name not in (*TOOLS, "encodec"):
        raise ConfigError(
            f"baseline {name!r} is not known; give {', '.join(TOOLS)}, encodec or "
            "'name: enc {in} {code} && dec {code} {out}'"
        )
    given = tuple(rate.strip() for rate in listed.split(",")) if equals else None
    for rate in given or ():
        if not rate.replace(".", "", 1).isdigit() or float(rate) <= 0:
            raise ConfigError(f"baseline {text!r}: {rate!r} is not a rate in kbit/s")
    if name == "encodec":
        if given and not set(given) <= set(ENCODEC_RATES):
            raise ConfigError(f"baseline {text!r}: EnCodec has {', '.join(ENCODEC_RATES)} kbit/s")
        return EncodecFamily(given or ENCODEC_RATES)
    tool = TOOLS[name]
    return ToolFamily(tool, given or tool.rates, version=_debian_version(tool.package))


@functools.cache
def _debian_version(package: str) -> str:
    """Version of an installed Debian package, so that an upgrade is not served from the cache."""
    if shutil.which("dpkg-query") is None:
        return package
    command = ["dpkg-query", "-W", "-f", "${Package} ${Version}", package]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or package


def _run(tool: Tool, rate: str, clip: Clip, system: System, folder: Path) -> Coded:
    wanted_rate = tool.sample_rate or clip.sample_rate
    ending = ".raw" if tool.raw else ".wav"
    source, out = folder / f"in{ending}", folder / f"out{ending}"
    code = folder / f"code{tool.suffix}"
    samples = to_int16(soxr.resample(clip.samples, clip.sample_rate, wanted_rate))
    if tool.raw:
        source.write_bytes(samples.tobytes())
    else:
        sf.write(source, samples, wanted_rate, "PCM_16")
    _shell(
        tool.command,
        {"in": source, "code": code, "out": out},
        rate=rate,
        bps=f"{float(rate) * 1000:.0f}" if rate else "",
        sample_rate=str(wanted_rate),
    )
    for path in (code, out):
        if not path.exists() or path.stat().st_size == 0:
            raise AudioError(f"no {path.name} was written")
    if tool.raw:
        decoded = np.fromfile(out, "<i2").astype(np.float32) / 32768
        decoded_rate = wanted_rate
    else:
        channels, decoded_rate = audio.read(out)
        decoded = channels.mean(axis=0)
    size = payload.count(code)
    return Coded(
        system=system,
        samples=soxr.resample(decoded, decoded_rate, clip.sample_rate).astype(np.float32),
        payload_bytes=size.payload,
        file_bytes=size.total,
    )


def _shell(command: str, files: dict[str, Path], **values: str) -> None:
    """Run a line with its fields filled in, each quoted; raise `AudioError` if it fails."""
    line = command
    for key, value in (files | values).items():
        line = line.replace("{" + key + "}", shlex.quote(str(value)))
    try:
        done = subprocess.run(
            line,
            shell=True,  # a line may join commands with && or |; it is the user's own
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise AudioError(f"took more than {TIMEOUT_SECONDS} s: {line}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing said"]
        raise AudioError(f"exit code {done.returncode}: {said[-1]}")
