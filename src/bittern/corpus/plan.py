"""What goes into which shard, decided once from the source alone, whoever does the work.

`plan.jsonl` tells in its first line what is asked for, and in each further one a recording and its
shard. Its digest stands in every shard: codes of two plans never mix in one folder.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bittern.audio.atomic import write_atomically
from bittern.corpus.sources import Recording, find_recordings
from bittern.errors import ConfigError

PLAN = "plan.jsonl"
_KIND = "bittern plan 1"
_SHARES, _SMALLEST, _LARGEST = (
    64,
    8e6,
    1e9,
)  # of shards, where no size is given; bytes of recordings


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Shards of recordings, and what is to be made of them."""

    about: dict[str, Any]  # all that shards depend on but for their recordings, as plain JSON
    shards: list[list[Recording]]
    digest: str  # of both, places and times left out: a corpus may move

    @property
    def bytes(self) -> int:
        return sum(recording.size for shard in self.shards for recording in shard)


def make_plan(
    out: Path, source: str, about: dict[str, Any], *, shard_mb: float | None, trust: bool
) -> Plan:
    """The plan of a folder, made and kept if there is none.

    Args:
        out: the folder.
        source: see `find_recordings`.
        about: what is asked for.
        shard_mb: of recordings to a shard; by default a 64th of them, within 8 and 1000 MB.
        trust: take the plan that is there, if it is of the same request, without a look at the source.

    Raises:
        ConfigError: the folder has another plan.
        AudioError: the source has no recordings.
    """
    about = about | {"source": source, "shard_mb": shard_mb}
    known = read_plan(out)
    if known is not None:
        _refuse_other(out, known.about, about)
        if trust:
            return known
    shards = cut(find_recordings(source), shard_mb)
    plan = Plan(about=about, shards=shards, digest=_digest(about, shards))
    if known is None:
        write_atomically(out / PLAN, _to_lines(plan))
    elif known.digest != plan.digest:
        raise ConfigError(
            f"{out}: was begun with other recordings than {source} has now "
            f"({sum(map(len, known.shards))} then, {sum(map(len, shards))} now); give another OUT"
        )
    return plan


def cut(recordings: list[Recording], shard_mb: float | None = None) -> list[list[Recording]]:
    """Recordings in their order, cut wherever a shard has its share of bytes."""
    total = sum(recording.size for recording in recordings)
    share = min(max(total / _SHARES, _SMALLEST), _LARGEST) if shard_mb is None else shard_mb * 1e6
    shards: list[list[Recording]] = []
    held = share
    for recording in recordings:
        if held >= share:
            shards.append([])
            held = 0
        shards[-1].append(recording)
        held += recording.size
    return shards


def read_plan(out: Path) -> Plan | None:
    """The plan of a folder, if it has one.

    Raises:
        ConfigError: it is damaged.
    """
    path = out / PLAN
    if not path.exists():
        return None
    try:
        head, *rows = map(json.loads, path.read_text().splitlines())
        shards: list[list[Recording]] = [[] for _ in range(head["shards"])]
        for row in rows:
            shards[row.pop("shard")].append(Recording(**row))
        plan = Plan(about=head["about"], shards=shards, digest=head["digest"])
        if head["kind"] != _KIND or plan.digest != _digest(plan.about, shards):
            raise ValueError("it does not have the digest that it says")
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(f"{path}: is damaged ({error}); give another OUT") from None
    return plan


def _refuse_other(out: Path, known: dict[str, Any], asked: dict[str, Any]) -> None:
    for name in sorted(known.keys() | asked.keys()):
        if known.get(name) != asked.get(name):
            raise ConfigError(
                f"{out}: was begun with {name} {known.get(name)}, not {asked.get(name)}; "
                "give another OUT, or the command it was begun with"
            )


def _digest(about: dict[str, Any], shards: list[list[Recording]]) -> str:
    named = {name: value for name, value in about.items() if name not in ("source", "model")}
    rows = [[[recording.key, recording.size] for recording in shard] for shard in shards]
    return hashlib.sha256(json.dumps([named, rows], sort_keys=True).encode()).hexdigest()[:32]


def _to_lines(plan: Plan) -> bytes:
    head = {"kind": _KIND, "digest": plan.digest, "shards": len(plan.shards), "about": plan.about}
    rows = [
        {"shard": number} | asdict(recording)
        for number, shard in enumerate(plan.shards)
        for recording in shard
    ]
    return "".join(json.dumps(row) + "\n" for row in [head, *rows]).encode()
