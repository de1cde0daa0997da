"""Free speech in Debian packages: which packages, what in them, under which licence.

The packages are downloaded and unpacked, never installed. Tuxpaint's Danish, Greek, English, Dutch,
Malayalam and Brazilian recordings, and unknown-horizons, are left alone because others test on them;
so are Danish, Greek and Dutch of the letter games.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from bittern.errors import CodecError, ConfigError


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Files of one package that become one source of the corpus.

    `pattern` matches a path below the package's root; its groups `language` and `speaker` tell these
    where the path does.
    """

    package: str
    source: str
    pattern: str
    language: str = ""  # where the path does not tell
    speaker: str = ""
    licence: str  # of the recordings, from the package's copyright file
    holder: str
    band_limited: bool = False  # told here where noise hides it from the measurement


def _asterisk(language: str, licence: str, holder: str) -> Selection:
    return Selection(
        package=f"asterisk-core-sounds-{language}-g722",
        source=f"asterisk-{language}",
        pattern=r"usr/share/asterisk/sounds/[a-z]{2}_[A-Z]{2}_[fm]_(?P<speaker>\w+)/"
        r"(?!silence/|.*(?:beep|[0-9]tone|tt-monkeys)).*\.g722",
        language=language,
        licence=licence,
        holder=holder,
    )


_STAMPS = r"usr/share/tuxpaint/stamps/.*_desc_(?P<language>{})\.ogg"
_FISH = r"usr/share/games/fillets-ng/sound/[^/]+/{}/(?:[^/]*-(?P<speaker>[mv])-)?[^/]*\.ogg"
_KENDRICK = "Bill Kendrick and contributors"
_ALTAR = "ALTAR interactive, Ivo and Pavel Danihelka"
_HEDGEWARS = r"usr/share/games/hedgewars/Data/Sounds/voices/"

SELECTIONS = (
    Selection(
        package="tuxpaint-stamps-default",
        source="tuxpaint",
        pattern=_STAMPS.format("be|bg|es|fr|ro|ru"),
        licence="GPL-2+",
        holder=_KENDRICK,
    ),
    Selection(
        package="tuxpaint-stamps-default",
        source="tuxpaint-ca",
        pattern=_STAMPS.format("ca"),
        band_limited=True,
        licence="GPL-2+",
        holder=_KENDRICK,
    ),
    Selection(
        package="fillets-ng-data-cs",
        source="fillets-cs",
        pattern=_FISH.format("cs"),
        language="cs",
        licence="GPL-2",
        holder=_ALTAR,
    ),
    Selection(
        package="fillets-ng-data-nl",
        source="fillets-nl",
        pattern=_FISH.format("nl"),
        language="nl",
        licence="GPL-2",
        holder=_ALTAR,
    ),
    Selection(
        package="fillets-ng-data",
        source="fillets",
        # linux/ holds the noises of a keyboard; the dialogs are lines in several languages
        pattern=r"usr/share/games/fillets-ng/sound/(?!share/|linux/|music/)[^/]+/en/[^/]*\.ogg",
        language="mul",
        licence="GPL-2",
        holder=_ALTAR,
    ),
    Selection(
        package="festvox-ru",
        source="festvox-ru",
        pattern=r"usr/share/festival/voices/russian/msu_ru_nsh_clunits/wav/.*\.wav",
        language="ru",
        speaker="nsh",
        licence="MIT-like (Festival)",
        holder="Nickolay V. Shmyrev",
    ),
    _asterisk("en", "CC-BY-SA-3.0", "Allison Smith, Digium"),
    _asterisk("es", "CC-BY-SA-3.0", "Allison Smith, Digium"),
    _asterisk("fr", "CC-BY-SA-3.0", "June Wallack, Digium"),
    _asterisk("it", "CC-BY-3.0", "Carlo Flora"),
    _asterisk("ru", "CC-BY-3.0", "Maxim Topal"),
    Selection(
        package="klettres-data",
        source="klettres",
        pattern=r"usr/share/klettres/(?P<language>(?!da/|el/|nl/)[^/]+)/(?:alpha|syllab)/.*\.ogg",
        licence="GPL-2+",
        holder="Anne-Marie Mahfouf and KDE contributors",
    ),
    Selection(
        package="ktuberling-data",
        source="ktuberling",
        pattern=r"usr/share/ktuberling/sounds/(?P<language>(?!da/|el/|nl/)[^/]+)/.*\.(?:ogg|wav|opus)",
        licence="GPL-2+",
        holder="KDE contributors",
    ),
    Selection(
        package="gcin-voice",
        source="gcin",
        pattern=r"usr/share/gcin-voice/ogg/.*/3\.ogg",
        language="zh",
        speaker="3",
        licence="GPL-3 or LGPL-3",
        holder="Edward Der-Hua Liu",
    ),
    Selection(
        package="gcin-voice",
        source="gcin",
        pattern=r"usr/share/gcin-voice/ogg/.*/5\.ogg",
        language="zh",
        speaker="5",
        licence="CC-BY-3.0",
        holder="Chu Lo, ChionMeilin",
    ),
    Selection(
        package="hedgewars-data",
        source="hedgewars",
        # Robot is no human voice; poisoned hedgehogs cough
        pattern=_HEDGEWARS + r"(?!Robot)(?P<speaker>[A-Za-z]+)(?:_(?P<language>[a-z]{2}))?/"
        r"(?!Poison)[^/]*\.ogg",
        language="en",
        licence="GFDL-1.3",
        holder="Andrey Korotaev, Hedgewars Project",
    ),
    Selection(
        package="kajongg",
        source="kajongg",
        pattern=r"usr/share/kajongg/voices/(?:(?P<language>de)/)?(?P<speaker>(?:fe)?male\d)/.*\.ogg",
        language="en",
        licence="GPL-2+",
        holder="Wolfgang Rohdewald and contributors",
    ),
)


@dataclass(frozen=True)
class Recording:
    """One file of speech and what is known of it."""

    path: Path
    name: str  # below its package or folder, with slashes
    source: str
    package: str  # or the folder given
    version: str
    language: str
    speaker: str
    licence: str


@dataclass(frozen=True)
class Unpacked:
    """A package's files in the work folder."""

    root: Path
    version: str


def fetch(package: str, work: Path) -> Unpacked:
    """Download and unpack a package, or find it done.

    Raises:
        ConfigError: this is no Debian: apt-get or dpkg is missing.
        CodecError: the package cannot be had, is damaged, or the disk is full.
    """
    debs = work / "debs"
    held = sorted(debs.glob(f"{package}_*.deb"))
    deb = held[-1] if held else _download(package, work)
    root = work / "trees" / deb.stem
    if not root.exists():
        unfinished = root.with_name(root.name + ".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        _run("dpkg", "-x", str(deb), str(unfinished), package=package, folder=work)
        unfinished.rename(root)
    return Unpacked(root, unquote(deb.name.split("_")[1]))


def _download(package: str, work: Path) -> Path:
    partial = work / "partial" / package
    partial.mkdir(parents=True, exist_ok=True)
    _run("apt-get", "-q", "download", package, package=package, folder=partial)
    found = sorted(partial.glob(f"{package}_*.deb"))
    if not found:
        raise CodecError(f"{package}: apt-get left no package behind")
    target = work / "debs" / found[-1].name
    target.parent.mkdir(exist_ok=True)
    return found[-1].replace(target)


def _run(*command: str, package: str, folder: Path) -> None:
    if shutil.which(command[0]) is None:
        raise ConfigError(
            f"{command[0]} is not here; packages need Debian or a relative of it. "
            "Without one, give --packages none and folders"
        )
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if not line.startswith("W:")]
        raise CodecError(f"{package}: {lines[-1] if lines else f'{command[0]} failed'}")


def recordings(package: str, unpacked: Unpacked) -> list[Recording]:
    """The speech in an unpacked package, by name."""
    names = sorted(
        path.relative_to(unpacked.root).as_posix()
        for path in unpacked.root.rglob("*")
        if path.is_file() and not path.is_symlink()
    )
    found = []
    for selection in SELECTIONS:
        if selection.package != package:
            continue
        for name in names:
            if match := re.fullmatch(selection.pattern, name):
                told = match.groupdict()
                found.append(
                    Recording(
                        path=unpacked.root / name,
                        name=name,
                        source=selection.source,
                        package=package,
                        version=unpacked.version,
                        language=told.get("language") or selection.language,
                        speaker=told.get("speaker") or selection.speaker,
                        licence=selection.licence,
                    )
                )
    return found
