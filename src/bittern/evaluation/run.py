"""`bittern evaluate`: the whole way from files to a report.

Each clip goes through each codec family in a worker process, which codes, decodes, aligns and
scores it and keeps the result in the cache; here the results are gathered and written down.
"""

import argparse
import contextlib
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bittern.audio.atomic import atomic_path
from bittern.corpus import workers
from bittern.errors import AudioError, CodecError, ConfigError
from bittern.evaluation import (
    baselines,
    cache,
    clips,
    library,
    nasty,
    page,
    plots,
    report,
    scores,
    tables,
)
from bittern.evaluation.baselines import TOOLS
from bittern.evaluation.cache import Cache
from bittern.evaluation.clips import Clip, Rejected
from bittern.evaluation.systems import (
    NOTHING,
    Family,
    ModelFamily,
    Row,
    System,
    model_family,
    not_coded,
)

INCOMPLETE = AudioError.exit_code  # a report was written, but not on everything asked for


@dataclass(frozen=True)
class Task:
    """One clip through all settings of one family."""

    clip: Clip
    family: Family
    cache_folder: Path


def run(args: argparse.Namespace) -> int:
    """Evaluate as the arguments say.

    Returns:
        0, or 2 where some file or score failed or a baseline that was asked for by name is
        missing: the report then says which.

    Raises:
        AudioError: nothing at all could be evaluated.
        ConfigError: an argument is wrong.
        ModelError: a model cannot be loaded.
    """
    say = (lambda _: None) if args.quiet else _to_stderr
    _require_packages()
    page.check(args)
    if args.jobs < 1:
        raise ConfigError(f"--jobs is {args.jobs}; give 1 or more")
    if bool(args.inputs) == bool(args.nasty):
        raise ConfigError("give audio to evaluate on, or --nasty")
    if args.nasty:
        return _try_nasty_sounds(args, say)
    models = _models(args)
    tools, missing = _tools(args)
    for line in missing:
        say(f"bittern: {line}; left out")
    usable, rejected = _read(args.inputs, models[0].sample_rate)
    for entry in rejected:
        say(f"bittern: {entry.name}: {entry.reason}; left out")
    if not usable:
        raise AudioError("none of the files can be evaluated; see the reasons above")
    args.out.mkdir(parents=True, exist_ok=True)
    families: list[Family] = [*models, *tools]
    with _cache_folder(args) as folder:
        rows = _evaluate(usable, families, folder, jobs=args.jobs, quiet=args.quiet)
        document = report.document(
            clips=usable,
            families=families,
            rows=rows,
            rejected=rejected,
            missing=missing,
            command=_command(),
        )
        _write(document, usable, families, Cache(folder), args)
    _tell(document, rows, args.out, say)
    complete = (
        not document["failures"] and not rejected and not (missing and (args.baseline or args.lyra))
    )
    return 0 if complete else INCOMPLETE


def _try_nasty_sounds(args: argparse.Namespace, say: Callable[[str], None]) -> int:
    args.stages = args.stages or (None if args.bitrates else nasty.STAGES)
    models = _models(args)
    found = nasty.document(models, args.nasty, partial(workers.in_order, jobs=args.jobs))
    found["command"] = _command()
    args.out.mkdir(parents=True, exist_ok=True)
    with atomic_path(args.out / nasty.FILE) as path:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    lines = nasty.broken(found)
    if not args.quiet:
        print(nasty.as_text(found))  # noqa: T201 (what was asked for)
    say(f"{len(lines)} broken; {args.out / nasty.FILE}")
    return INCOMPLETE if lines else 0


def work(task: Task) -> list[Row]:
    """Code and score one clip with one family; what the cache has is not done again.

    A score that failed is no result: it is tried again.
    """
    store = Cache(task.cache_folder)
    kept = [store.get(task.clip, system) for system in task.family.systems]
    rows = [row for row in kept if row is not None and not row.failures]
    known = {row.system for row in rows}
    wanted = [system for system in task.family.systems if system not in known]
    for row in _coded(task, wanted) if wanted else ():
        if row.coded:
            row = _kept(store, task.clip, scores.scored(row, task.clip))
        rows.append(row)
    return [replace(row, samples=NOTHING) for row in rows]


def _kept(store: Cache, clip: Clip, row: Row) -> Row:
    """The row, put into the cache; where that is full the row is told as it is, once."""
    try:
        store.put(clip, row)
    except OSError as error:
        return replace(row, failures=row.failures | {"keeping the result": f"{error.strerror}"})
    return row


def _coded(task: Task, wanted: Sequence[System]) -> Iterator[Row]:
    """A row for each wanted system, without scores."""
    left = list(wanted)
    reason = "gave nothing"
    try:
        for row in task.family.code(task.clip, wanted):
            left.remove(row.system)
            yield row
    except (CodecError, OSError, MemoryError) as error:
        reason = str(error) or "memory ran out"
    yield from (not_coded(task.clip, system, reason) for system in left)


def _evaluate(
    usable: Sequence[Clip], families: Sequence[Family], folder: Path, *, jobs: int, quiet: bool
) -> list[Row]:
    """All clips through all families, in order of clip, family and setting."""
    tasks = [Task(clip, family, folder) for clip in usable for family in families]
    total = sum(task.clip.seconds * len(task.family.systems) for task in tasks)
    rows: list[Row] = []
    with tqdm(
        total=total,
        unit="s of audio",
        disable=quiet,
        bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} s of audio, {remaining} left",
    ) as bar:
        for task, part in workers.share(work, tasks, jobs):
            if isinstance(part, workers.Killed):
                systems = task.family.systems
                part = [not_coded(task.clip, system, part.reason) for system in systems]
            rows += part
            bar.update(task.clip.seconds * len(task.family.systems))
    systems = [system for family in families for system in family.systems]
    names = [clip.name for clip in usable]
    rows.sort(key=lambda row: (names.index(row.clip), systems.index(row.system)))
    return rows


def _read(inputs: Sequence[Path], sample_rate: int) -> tuple[list[Clip], list[Rejected]]:
    read = [clips.read(name, path, sample_rate) for name, path in clips.find(inputs)]
    return (
        [entry for entry in read if isinstance(entry, Clip)],
        [entry for entry in read if isinstance(entry, Rejected)],
    )


def _require_packages() -> None:
    for package in cache.METRIC_PACKAGES:
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            raise ConfigError(f"{package} is not installed; pip install 'bittern[eval]'") from None


def _models(args: argparse.Namespace) -> list[ModelFamily]:
    """Each model at each width of search, by stages and by bitrates, whole and with each loss."""
    settings = [(args.stages, ())] if args.stages or not args.bitrates else []
    settings += [(None, args.bitrates)] if args.bitrates else []
    models = [
        model_family(name, stages, bitrates=bitrates, search_width=width)
        for name in args.model or ["speech-16khz"]
        for width in args.search_width
        for stages, bitrates in settings
    ]
    if len(settings) > 1:  # a curve each
        models = [replace(m, name=f"{m.name} by bitrate") if m.bitrates else m for m in models]
    if len({model.name for model in models}) < len(models):
        models = [_with_folder(model) for model in models]
    return [family for model in models for family in (model, *map(model.losing, args.loss))]


def _tools(args: argparse.Namespace) -> tuple[list[Family], list[str]]:
    """The baselines that can run, and what to say of those that cannot."""
    asked = [] if args.no_baselines else args.baseline or list(TOOLS)
    families = [baselines.parse(text) for text in asked]
    families += [library.lyra(args.lyra)] if args.lyra else []
    names = [family.name for family in families]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"baseline {name!r} is given twice; give its rates as one list")
    usable = [family for family in families if family.missing is None]
    return usable, [family.missing for family in families if family.missing]


def _write(
    document: dict[str, Any],
    usable: Sequence[Clip],
    families: Sequence[Family],
    store: Cache,
    args: argparse.Namespace,
) -> None:
    texts = {
        "report.json": json.dumps(document, indent=1, ensure_ascii=False) + "\n",
        "scores.csv": tables.as_csv(document),
        "scores.md": tables.as_markdown(document),
    }
    for name, text in texts.items():
        with atomic_path(args.out / name) as path:
            # a name that is no text stands there escaped
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
    if args.save_audio:
        systems = [system for family in families for system in family.systems]
        cache.save_audio(usable, systems, store, args.save_audio)
    plots.write(document, args.out)
    page.write(document, usable, families, store, args)


def _tell(
    document: dict[str, Any], rows: Sequence[Row], out: Path, say: Callable[[str], None]
) -> None:
    say(f"{tables.as_text(document)}\n\n{tables.worst_as_text(document)}\n")
    failures = document["failures"]
    for failure in failures:
        say("bittern: {clip}, {system}: {what} failed: {reason}".format(**failure))
    cached = sum(row.from_cache for row in rows)
    say(
        f"{len(document['clips'])} clips, {len(document['rejected'])} left out, "
        f"{len(failures)} failures; {cached} of {len(rows)} results from the cache\n"
        f"{out / 'index.html'}"
    )


@contextlib.contextmanager
def _cache_folder(args: argparse.Namespace) -> Iterator[Path]:
    if not args.no_cache:
        yield args.cache or cache.default_folder()
        return
    with tempfile.TemporaryDirectory(prefix="bittern-") as folder:
        yield Path(folder)


def _with_folder(model: ModelFamily) -> ModelFamily:
    """A model among others of its name, told apart by its folder."""
    return replace(model, name=f"{model.name} ({model.folder.name}, {model.fingerprint[:6]})")


def _command() -> str:
    return shlex.join(["bittern", *map(_without_folders, sys.argv[1:])])


def _without_folders(argument: str) -> str:
    """An argument that is a path, by its last part: where things lie is nobody else's business."""
    path = Path(argument)
    return path.name if path.is_absolute() or path.exists() else argument


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201 (the command's own talk)
