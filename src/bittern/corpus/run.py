"""A corpus to codes: by processes of one machine, by parts of a job array, or on a Ray cluster.

All of them only hand out shards, whose bytes depend on the plan alone: who made them, in which order
and after how many attempts does not show. What is complete is not made again.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import bittern
from bittern import checkpoint
from bittern.audio.atomic import write_atomically
from bittern.config import DEFAULT_MODEL, CodingOptions
from bittern.corpus.plan import make_plan
from bittern.corpus.shards import Format
from bittern.corpus.sources import Recording
from bittern.corpus.work import Job, make_shard, read_mark
from bittern.corpus.workers import Killed, share
from bittern.errors import CodecError, ConfigError, extra

SUMMARY = "summary.json"
_ATTEMPTS = 2  # at a shard, where the process that works on it dies
_CLUSTER_RETRIES = 20  # of a shard, as often as nodes may be lost under it

Todo = list[tuple[int, list[Recording]]]  # shards by their number
Mark = dict[str, Any]


@dataclass(kw_only=True)
class Summary:
    """What is complete in a folder of shards."""

    shards: int = 0  # complete
    of: int = 0  # shards of the plan
    recordings: int = 0
    seconds: float = 0.0  # of audio
    bytes: int = 0  # of the shards
    core_seconds: float = 0.0  # that processors worked
    errors: dict[str, str] = field(default_factory=dict)  # recordings without codes, and why
    failed: dict[int, str] = field(default_factory=dict)  # shards that could not be made, and why

    def add(self, mark: Mark) -> None:
        self.shards += 1
        self.recordings += mark["recordings"]
        self.seconds += mark["seconds"]
        self.bytes += mark["bytes"]
        self.core_seconds += mark["core_seconds"]
        self.errors |= mark["errors"]

    @property
    def kbps(self) -> float:
        """Of the shards as they lie on disk."""
        return self.bytes * 8 / 1000 / self.seconds if self.seconds else 0.0

    @property
    def speed(self) -> float:
        """Seconds of audio in a second of one processor."""
        return self.seconds / self.core_seconds if self.core_seconds else 0.0


@dataclass(frozen=True)
class Progress:
    """How far a run is; shards that were complete before it do not count."""

    bytes: int  # of recordings done
    of: int  # bytes in all
    seconds: float  # of audio done
    elapsed: float  # seconds since the beginning

    @property
    def share(self) -> float:
        return self.bytes / max(self.of, 1)

    @property
    def line(self) -> str:
        speed = self.seconds / max(self.elapsed, 1e-9)
        left = self.elapsed * (self.of - self.bytes) / max(self.bytes, 1)
        return f"{self.seconds / 3600:.2f} h done, {speed:.0f}x real time, {left / 3600:.2f} h left"


def tokenize(
    source: str | Path,
    out: str | Path,
    codec: str | Path = DEFAULT_MODEL,
    *,
    to: Format | str = Format.PARQUET,
    workers: int = 0,
    part: tuple[int, int] = (0, 1),
    cluster: str | None = None,
    shard_mb: float | None = None,
    device: str = "cpu",
    watch: Callable[[Progress], object] | None = None,
    **options: Any,
) -> Summary:
    """Code all recordings of a corpus into shards of a folder.

    The same call after an interruption goes on where that one stopped, to the same bytes.

    Args:
        source: a folder, manifest, tars or Parquet files, see `sources.find_recordings`.
        out: the folder, which one plan has to itself.
        codec: name or folder of the model.
        to: "parquet", "webdataset", "npy" (codes, channels mixed to one) or "btn" (files).
        workers: processes, each on one thread; 0: none but this one.
        part: (i, n): of all shards only i, i + n, i + 2n, ...
        cluster: the address of a Ray cluster that does the work instead, or "auto".
        shard_mb: of recordings to a shard; by default a 64th of them, within 8 and 1000 MB.
        device: of each worker.
        watch: is told after each shard how far the work is.
        options: `stages`, `bitrate_kbps` (of the codes, nominally) and `search_width`; for "btn"
            all of `CodingOptions`.

    Returns:
        What is complete in `out`, other parts' shards included; also in `summary.json`.

    Raises:
        AudioError: the source has no recordings.
        ConfigError: options are out of reach, or `out` has another plan.
        CodecError: `out` cannot be written.
    """
    to, out = Format(to), Path(out)
    index, count = part
    if not 0 <= index < count:
        raise ConfigError(f"part is {index}/{count}; give 0/N to {count - 1}/N")
    about, settings = _request(checkpoint.load(codec), to, options)
    trust = count > 1 or cluster is not None
    plan = make_plan(out, str(source), about, shard_mb=shard_mb, trust=trust)
    shards = len(plan.shards)
    job = Job(out.absolute(), shards, to, _name(codec), device, settings, about, plan.digest)
    todo = [(n, plan.shards[n]) for n in range(index, shards, count) if _is_due(job, n)]
    failed: dict[int, str] = {}
    if todo:
        marks = _on_cluster(job, todo, cluster) if cluster else _here(job, todo, workers)
        failed = _follow(marks, dict(todo), watch)
    summary = _summary(job)
    summary.failed = failed
    told = asdict(summary) | {"kbps": summary.kbps, "real_time": summary.speed}
    write_atomically(out / SUMMARY, json.dumps(told, indent=1).encode())
    return summary


def _is_due(job: Job, number: int) -> bool:
    """Whether a shard is not there, or lacks what could not be reached and may be now."""
    mark = read_mark(job, number)
    return mark is None or mark["passing"] > 0


def _request(
    found: checkpoint.Checkpoint, to: Format, options: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the plan keeps of a request, and the options of `Codec.compress` that it comes to."""
    config, asked = found.config, CodingOptions(**options)
    if to is not Format.BTN:
        if asked.quality is not None:
            raise ConfigError(
                f"{to} has the same stages in each frame; give stages or a bitrate, or write btn"
            )
        width = asked.search_width
        options = {"stages": asked.count_stages(config), "search_width": width, "mono": True}
        options |= {"coder": "raw"}
    about = {
        "model": config.name,
        "fingerprint": found.fingerprint.hex(),
        "to": str(to),
        "options": options,
        "codebook_size": config.quantizer.codebook_size,
        "frame_rate": config.frame_rate,
        "sample_rate": config.sample_rate,
        "bittern": bittern.__version__,
    }
    return about, options


def _name(codec: str | Path) -> str:
    """The same model for processes that run elsewhere."""
    return str(Path(codec).absolute()) if Path(codec).is_dir() else str(codec)


def _follow(
    marks: Iterator[tuple[int, Mark | str]],
    shards: dict[int, list[Recording]],
    watch: Callable[[Progress], object] | None,
) -> dict[int, str]:
    """Take marks as shards are done; returns those that could not be made, and why."""
    sizes = {number: sum(r.size for r in shard) for number, shard in shards.items()}
    began, held, seconds = time.perf_counter(), 0, 0.0
    failed: dict[int, str] = {}
    for number, mark in marks:
        if isinstance(mark, str):
            failed[number] = mark
            continue
        held += sizes[number]
        seconds += mark["seconds"]
        if watch is not None:
            watch(Progress(held, sum(sizes.values()), seconds, time.perf_counter() - began))
    return failed


def _summary(job: Job) -> Summary:
    summary = Summary(of=job.shards)
    for number in range(job.shards):
        if mark := read_mark(job, number):
            summary.add(mark)
    return summary


# who does the work


def _here(job: Job, todo: Todo, workers: int) -> Iterator[tuple[int, Mark | str]]:
    if workers == 0:
        yield from ((number, make_shard(job, number, shard)) for number, shard in todo)
        return
    for _ in range(_ATTEMPTS):
        killed: Todo = []
        for item, mark in share(partial(_make, job), todo, workers, apart=True):
            if isinstance(mark, Killed):
                killed.append(item)
            else:
                yield item[0], mark
        todo = killed
    for number, _ in todo:
        yield number, f"the process that worked on it ended, {_ATTEMPTS} times"


def _make(job: Job, item: tuple[int, list[Recording]]) -> Mark:
    return make_shard(job, *item)


def _on_cluster(job: Job, todo: Todo, address: str) -> Iterator[tuple[int, Mark | str]]:
    """Each shard as a task of one processor, which Ray gives to another node where its own is lost."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with extra("cluster"):
        import ray
        from ray.exceptions import RayError, RayTaskError
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"no Ray cluster at {address!r} ({reason}); start one") from None
    try:
        make = ray.remote(num_cpus=1, max_retries=_CLUSTER_RETRIES)(make_shard)
        numbers = {make.remote(job, number, shard): number for number, shard in todo}
        waiting = list(numbers)
        while waiting:
            (task,), waiting = ray.wait(waiting)
            try:
                yield numbers[task], ray.get(task)
            except RayTaskError as error:
                raise error.cause if isinstance(error.cause, CodecError) else error from None
            except RayError as error:  # whoever worked on it died, too often
                yield numbers[task], str(error).splitlines()[0]
    finally:
        ray.shutdown()
