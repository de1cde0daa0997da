"""Other codecs, run for real as subprocesses: Opus, MP3, AAC, Codec 2, or any command given.

Each encodes a 16-bit WAV file and decodes its own file again; the bitrate is what the file holds.
"""

import functools
import json
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr

from bittern.audio import streams as audio
from bittern.errors import AudioError, ConfigError
from bittern.evaluation import encodec
from bittern.evaluation.clips import Clip, to_int16
from bittern.evaluation.systems import Family, Row, System, not_coded

TIMEOUT_SECONDS = 300  # for one clip
_CONTAINERS = ("ogg", "mp3", "aac", "mov,mp4,m4a,3gp,3g2,mj2")  # as ffprobe names them
_SURE = 51  # of 100: by more than the file's ending
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
        needed = self.programs if self.raw else [*self.programs, "ffprobe"]  # it counts the bytes
        return [program for program in needed if shutil.which(program) is None]


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
        packages = [self.tool.package] if self.tool.package else []
        if "ffprobe" in missing and "ffmpeg" not in packages:
            packages.append("ffmpeg")
        advice = f"; install Debian's packages {' and '.join(packages)}" if packages else ""
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

    def code(self, clip: Clip, wanted: Sequence[System]) -> Iterator[Row]:
        for system, rate in zip(self.systems, self.rates or ("",), strict=True):
            if system not in wanted:
                continue
            with tempfile.TemporaryDirectory(prefix="bittern-") as folder:
                try:
                    yield _run(self.tool, rate, clip, system, Path(folder))
                except (AudioError, OSError) as error:
                    yield not_coded(clip, system, str(error).replace(folder, "").strip())


def _tool(name: str, rates: Sequence[str] | None) -> ToolFamily:
    tool = TOOLS[name]
    return ToolFamily(tool, tuple(rates or tool.rates), version=_debian_version(tool.package))


# All that can be asked for by name; makes a family of the rates asked for (kbit/s), or of its own.
BASELINES: dict[str, Callable[[Sequence[str] | None], Family]] = {
    **{name: functools.partial(_tool, name) for name in TOOLS},
    "encodec": encodec.family,
}


def parse(text: str) -> Family:
    """A family from the command line: `opus`, `opus=6,12` or `'name: enc {in} {code} && ...'`.

    Raises:
        ConfigError: neither form, an unknown name, or a bad rate.
    """
    if "{" in text:
        return _parse_command(text)
    name, equals, listed = text.partition("=")
    if name not in BASELINES:
        raise ConfigError(
            f"baseline {name!r} is not known; give {', '.join(BASELINES)} or "
            "'name: enc {in} {code} && dec {code} {out}'"
        )
    rates = [rate.strip() for rate in listed.split(",")] if equals else None
    for rate in rates or ():
        if not rate.replace(".", "", 1).isdigit() or float(rate) <= 0:
            raise ConfigError(f"baseline {text!r}: {rate!r} is not a rate in kbit/s")
    return BASELINES[name](rates)


def _parse_command(text: str) -> ToolFamily:
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


@functools.cache
def _debian_version(package: str) -> str:
    """Version of an installed Debian package, so that an upgrade is not served from the cache."""
    if shutil.which("dpkg-query") is None:
        return package
    command = ["dpkg-query", "-W", "-f", "${Package} ${Version}", package]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or package


def _run(tool: Tool, rate: str, clip: Clip, system: System, folder: Path) -> Row:
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
    return Row(
        clip.name,
        system,
        payload_bytes=code.stat().st_size if tool.raw else payload_bytes(code),
        file_bytes=code.stat().st_size,
        samples=soxr.resample(decoded, decoded_rate, clip.sample_rate).astype(np.float32),
    )


def payload_bytes(path: Path) -> int:
    """Bytes of a compressed file that carry audio: the packets in its container, by ffprobe.

    A bitrate that counts page headers and comment fields says more about the file format than about
    the codec. A file in none of these containers counts whole.
    """
    probe = (
        "ffprobe -loglevel quiet -of json -show_entries format=format_name,probe_score:packet=size"
    )
    done = subprocess.run([*probe.split(), path], capture_output=True, check=False)
    found = json.loads(done.stdout or "{}")
    about = found.get("format", {})
    if about.get("format_name") not in _CONTAINERS or about["probe_score"] < _SURE:
        return path.stat().st_size
    return sum(int(packet["size"]) for packet in found["packets"])


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
