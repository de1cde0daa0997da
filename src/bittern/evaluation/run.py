"""`bittern evaluate`: the whole way from files to a report.

Each clip goes through each codec family in a worker process, which codes, decodes, aligns and
scores it and keeps the result in the cache; here the results are gathered and written down.
"""

import argparse
import contextlib
import dataclasses
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from bittern.audio.atomic import atomic_path
from bittern.config import SEARCH_WIDTH
from bittern.errors import AudioError, CodecError, ConfigError
from bittern.evaluation import baselines, cache, clips, codebooks, page, plots, report, scores
from bittern.evaluation.baselines import TOOLS
from bittern.evaluation.cache import Cache, Entry
from bittern.evaluation.clips import Clip, Rejected
from bittern.evaluation.report import Report, Result
from bittern.evaluation.systems import CodingFailure, Family, ModelFamily, model_family

INCOMPLETE = AudioError.exit_code  # a report was written, but not on everything asked for


@dataclass(frozen=True)
class Task:
    """One clip through all settings of one family."""

    clip: Clip
    family: Family
    cache_folder: Path


class Outcome(NamedTuple):
    result: Result
    codes: NDArray[np.int64] | None
    from_cache: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `run` takes."""
    parser.description = "Score codecs on audio files, with Opus, MP3, AAC and Codec 2 beside them."
    parser.add_argument(
        "inputs", nargs="+", type=Path, metavar="FOLDER_OR_FILE", help="audio to evaluate on"
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME_OR_FOLDER",
        help="a model to evaluate; may be given several times (default: speech-16khz)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("report"), help="folder to write to (default: report)"
    )
    parser.add_argument(
        "--stages",
        type=_integers,
        metavar="K,K,...",
        help="codebook stages to evaluate (default: 1,2,3,4,6,8,12,16,24,32)",
    )
    parser.add_argument(
        "--search-width",
        type=_integers,
        default=[SEARCH_WIDTH],
        metavar="N,N,...",
        help=f"evaluate models with these widths of the encoder's search (default: {SEARCH_WIDTH})",
    )
    parser.add_argument(
        "--baseline",
        action="append",
        default=[],
        metavar="NAME[=KBPS,...]",
        help=f"{', '.join(TOOLS)}, encodec, such as opus=6,12, or any command: "
        "'name: enc {in} {code} && dec {code} {out}'; may be given several times "
        "(default: the first four at low rates)",
    )
    parser.add_argument("--no-baselines", action="store_true", help="evaluate the model only")
    parser.add_argument(
        "--jobs",
        type=int,
        default=_cores(),
        metavar="N",
        help="processes (default: %(default)s, the cores)",
    )
    parser.add_argument("--cache", type=Path, help=f"default: {cache.default_folder()}")
    parser.add_argument("--no-cache", action="store_true", help="keep and use no earlier results")
    page.add_arguments(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")


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
    say = _silent if args.quiet else _to_stderr
    _require_packages()
    if args.jobs < 1:
        raise ConfigError(f"--jobs is {args.jobs}; give 1 or more")
    models = [
        model_family(name, args.stages, search_width=width)
        for name in args.model or ["speech-16khz"]
        for width in args.search_width
    ]
    if len({model.name for model in models}) < len(models):
        models = [_renamed(model) for model in models]
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
        outcomes = _evaluate(usable, families, folder, jobs=args.jobs, quiet=args.quiet)
        made = Report(
            clips=usable,
            families=families,
            results=[outcome.result for outcome in outcomes],
            codebooks=_codebook_reports(models, outcomes),
            rejected=rejected,
            missing=missing,
            command=shlex.join(["bittern", *map(_without_folders, sys.argv[1:])]),
        )
        _write(made, Cache(folder), args)
    _tell(made, outcomes, args.out, say)
    complete = not made.failures and not rejected and not (missing and args.baseline)
    return 0 if complete else INCOMPLETE


def work(task: Task) -> list[Outcome]:
    """Code and score one clip with one family; what the cache has is not done again.

    A score that failed is no result: it is tried again.
    """
    store = Cache(task.cache_folder)
    found = {system: store.get(task.clip, system) for system in task.family.systems}
    known = {system: entry for system, entry in found.items() if entry and not entry.failures}
    outcomes = [
        Outcome(_result(task.clip, system, entry), entry.codes, from_cache=True)
        for system, entry in known.items()
    ]
    wanted = [system for system in task.family.systems if system not in known]
    if not wanted:
        return outcomes
    done = set()
    reason = "gave nothing"
    try:
        for coded in task.family.code(task.clip, wanted):
            done.add(coded.system)
            if isinstance(coded, CodingFailure):
                failed = Result(task.clip.name, coded.system, failures={"coding": coded.reason})
                outcomes.append(Outcome(failed, None, from_cache=False))
                continue
            aligned = scores.align(coded.samples, task.clip.samples, task.clip.sample_rate)
            scored = scores.score(aligned.samples, task.clip.samples, task.clip.sample_rate)
            entry = Entry(
                payload_bytes=coded.payload_bytes,
                file_bytes=coded.file_bytes,
                delay=aligned.delay,
                values=scored.values,
                failures=scored.failures,
                samples=aligned.samples,
                codes=coded.codes,
            )
            store.put(task.clip, coded.system, entry)
            result = _result(task.clip, coded.system, entry)
            outcomes.append(Outcome(result, entry.codes, from_cache=False))
    except CodecError as error:
        reason = str(error)
    for system in wanted:
        if system not in done:
            failed = Result(task.clip.name, system, failures={"coding": reason})
            outcomes.append(Outcome(failed, None, from_cache=False))
    return outcomes


def _evaluate(
    usable: Sequence[Clip], families: Sequence[Family], folder: Path, *, jobs: int, quiet: bool
) -> list[Outcome]:
    """All clips through all families, in order of clip, family and setting."""
    tasks = [Task(clip, family, folder) for clip in usable for family in families]
    total = sum(task.clip.seconds * len(task.family.systems) for task in tasks)
    outcomes: list[Outcome] = []
    with tqdm(
        total=total,
        unit="s of audio",
        disable=quiet,
        bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} s of audio, {remaining} left",
    ) as bar:
        for task, part in _parallel(tasks, jobs):
            outcomes += part
            bar.update(task.clip.seconds * len(task.family.systems))
    systems = [system for family in families for system in family.systems]
    names = [clip.name for clip in usable]
    outcomes.sort(key=lambda o: (names.index(o.result.clip), systems.index(o.result.system)))
    return outcomes


def _parallel(tasks: Sequence[Task], jobs: int) -> Iterator[tuple[Task, list[Outcome]]]:
    if jobs == 1:
        for task in tasks:
            yield task, work(task)
        return
    with ProcessPoolExecutor(
        max_workers=min(jobs, len(tasks)), mp_context=get_context("spawn"), initializer=_one_thread
    ) as pool:
        waiting = {pool.submit(work, task): task for task in tasks}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        finally:  # on an interrupt what is done is in the cache; the rest need not begin
            pool.shutdown(wait=False, cancel_futures=True)


def _one_thread() -> None:
    """One thread for each worker process: the processes are the parallelism."""
    os.environ["NUMBA_NUM_THREADS"] = "1"  # ViSQOL's; numba is not imported yet
    torch.set_num_threads(1)


def _result(clip: Clip, system: report.System, entry: Entry) -> Result:
    return Result(
        clip=clip.name,
        system=system,
        payload_bytes=entry.payload_bytes,
        file_bytes=entry.file_bytes,
        delay=entry.delay,
        values=entry.values,
        failures=entry.failures,
    )


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


def _tools(args: argparse.Namespace) -> tuple[list[Family], list[str]]:
    """The baselines that can run, and what to say of those that cannot."""
    asked = [] if args.no_baselines else args.baseline or list(TOOLS)
    families = [baselines.parse(text) for text in asked]
    names = [family.name for family in families]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"baseline {name!r} is given twice; give its rates as one list")
    usable: list[Family] = [family for family in families if family.missing is None]
    return usable, [family.missing for family in families if family.missing]


def _codebook_reports(
    models: Sequence[ModelFamily], outcomes: Sequence[Outcome]
) -> dict[str, codebooks.CodebookReport]:
    found = {}
    for model in models:
        codes = [o.codes for o in outcomes if o.result.system.family == model.name]
        kept = [array for array in codes if array is not None]
        if kept:
            found[model.name] = codebooks.report(kept, model.codebook_size)
    return found


def _write(made: Report, store: Cache, args: argparse.Namespace) -> None:
    document = made.as_dict()
    texts = {
        "report.json": made.as_json(),
        "scores.csv": made.as_csv(),
        "scores.md": report.as_markdown(made),
    }
    for name, text in texts.items():
        with atomic_path(args.out / name) as path:
            path.write_text(text, encoding="utf-8")
    plots.write(document, args.out)
    page.write(document, made, store, args.out, page.options(args))


def _tell(made: Report, outcomes: Sequence[Outcome], out: Path, say: Callable[[str], None]) -> None:
    say(report.as_text(made))
    for result, what, why in made.failures:
        say(f"bittern: {result.clip}, {result.system.name}: {what} failed: {why}")
    cached = sum(outcome.from_cache for outcome in outcomes)
    say(
        f"{len(made.clips)} clips, {len(made.rejected)} left out, {len(made.failures)} failures; "
        f"{cached} of {len(outcomes)} results from the cache\n{out / 'index.html'}"
    )


@contextlib.contextmanager
def _cache_folder(args: argparse.Namespace) -> Iterator[Path]:
    if not args.no_cache:
        yield args.cache or cache.default_folder()
        return
    with tempfile.TemporaryDirectory(prefix="bittern-") as folder:
        yield Path(folder)


def _renamed(model: ModelFamily) -> ModelFamily:
    """Models of one name, told apart by their folders."""
    name = f"{model.name} ({model.folder.name}, {model.fingerprint[:6]})"
    return dataclasses.replace(model, name=name)


def _without_folders(argument: str) -> str:
    """An argument that is a path, by its last part: where things lie is nobody else's business."""
    path = Path(argument)
    return path.name if path.is_absolute() or path.exists() else argument


def _integers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) >= 1 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as 4,8,16")
    return [int(part) for part in parts]


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201 (the command's own talk)


def _silent(text: str) -> None:
    del text
