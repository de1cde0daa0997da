"""How many of the codes that were searched each frame of a file gets: for a quality, or for a bitrate.

    searched codes, chunk by chunk -> stages of each frame -> codes, -1 for none -> packed chunks

A quality is one trade-off for all chunks. A bitrate is met by one trade-off for a whole file, found once
all its errors are known, where they fit into memory; otherwise, and on pipes, by one that follows what was
spent. All streams of a file share it. What chooses is in `allocation.py`. No torch here, and no bytes:
what packs chunks comes from outside.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from bittern.config import CodecConfig, CodingOptions
from bittern.model.allocation import (
    NEARBY_FRAMES,
    Counts,
    FileRate,
    Floats,
    LiveChoice,
    LiveRate,
    Searched,
    choose,
    frame_weights,
    highest_rung,
    ladder,
    tradeoff_for,
)

WHOLE_FRAMES = 60_000  # frames of all streams, 20 minutes of one, up to which a file is known whole
LIVE_SECONDS = 10  # of bits that a stream of unknown length saves up in silence, at most
CHUNK_BITS = 8 * 16  # that stand around the codes of a chunk
_FRAME_BITS, _CODED_SHARE = 3, 0.92  # beside the codes of a frame, and of codes once they are coded
# what frames have at most, as a multiple of the average: to search for more takes time for nothing
_HEADROOM = 1.5  # at a quality, beyond which speech does not go
_HEADROOM_BITRATE = 2.0  # for a bitrate, which has to be met in spite of pauses
_HEADROOM_STREAMS = 3.0  # and in spite of other streams that are silent
_NEAR_ENOUGH = 0.008  # of the budget, by which the last chunks may miss their share
_TRIES = 2  # more, at the last two chunks

Codes = NDArray[np.int64]  # [S, k, F]


class Packed(Protocol):
    """A chunk as it is written."""

    @property
    def counts(self) -> Counts: ...  # [S, F], stages of each frame

    @property
    def bits(self) -> int: ...  # all that stands around it included


P = TypeVar("P", bound=Packed)
Pack = Callable[[Codes], P]


class Tally:
    """How many frames have how many stages, of those that were counted so far."""

    def __init__(self) -> None:
        self._frames = np.zeros(256, np.int64)  # by stages

    def note(self, counts: Counts) -> None:
        """Count frames with so many stages, of any shape."""
        self._frames += np.bincount(counts.ravel(), minlength=256)

    @property
    def range(self) -> tuple[int, int]:
        """Fewest and most stages of a frame; 0 if there are no frames."""
        found = self._frames.nonzero()[0]
        return (int(found[0]), int(found[-1])) if len(found) else (0, 0)

    @property
    def mean(self) -> float:
        return float(self._frames @ np.arange(256) / max(self._frames.sum(), 1))


def keep(codes: NDArray[np.integer], counts: Counts) -> Codes:
    """The first codes of each frame, -1 standing for the others: [S, k, F], [S, F] -> [S, k, F]."""
    stage = np.arange(codes.shape[1])[:, None]
    return np.where(stage < counts[:, None], codes.astype(np.int64), -1)


def choose_whole(searched: Searched, tradeoff: float) -> Codes:
    """The codes of frames that are all known, at one trade-off."""
    if searched.levels.shape[1] == 0:
        return searched.codes.astype(np.int64)
    return keep(searched.codes, _choose(searched, frame_weights(searched.levels), tradeoff))


def most_stages(config: CodecConfig, streams: int, options: CodingOptions) -> int:
    """The most stages that any frame is to be searched for.

    Raises:
        ConfigError: stages, bitrate or quality are out of reach.
    """
    if options.constant:
        return options.count_stages(config, streams)
    if options.bitrate_kbps is None:
        most = _HEADROOM * options.mean_stages(config)
    else:
        config.check_bitrate(options.bitrate_kbps, streams, _overhead_kbps(config, options))
        headroom = _HEADROOM_BITRATE if streams == 1 else _HEADROOM_STREAMS
        most = headroom * _likely_quality(config, streams, options)
    return highest_rung(most, config.quantizer.stages)


def _overhead_kbps(config: CodecConfig, options: CodingOptions) -> float:
    """What stands around the codes of chunks."""
    return CHUNK_BITS / 1000 / max(options.chunk_seconds, 1 / config.frame_rate)


def _likely_quality(config: CodecConfig, streams: int, options: CodingOptions) -> float:
    """About how many stages frames have on average, at a bitrate."""
    kbps = (options.bitrate_kbps or 0.0) - _overhead_kbps(config, options)
    bits = kbps * 1000 / config.frame_rate / streams - _FRAME_BITS
    stages = bits / (_CODED_SHARE * config.quantizer.bits_per_code)
    return min(max(stages, 1.0), config.quantizer.stages)


def allot(
    chunks: Iterable[Searched],
    options: CodingOptions,
    config: CodecConfig,
    gains: Floats,
    streams: int,
    budget: float | None,
    pack: Pack[P],
) -> Iterator[P]:
    """Chunks with the stages that a quality or a bitrate asks for; `budget` in bits of all, if known."""
    if options.bitrate_kbps is None:
        return _at_quality(chunks, tradeoff_for(options.mean_stages(config), gains), pack)
    quality = _likely_quality(config, streams, options)
    target = options.bitrate_kbps * 1000 / config.frame_rate / streams  # bits a frame
    if budget is not None and budget <= target * WHOLE_FRAMES:
        return _meet_bitrate(chunks, budget, target / quality, pack)
    saved = LIVE_SECONDS * config.frame_rate * streams if budget is None else np.inf
    follower = LiveRate(target, tradeoff_for(quality, gains), most_saved=saved)
    return _follow_bitrate(chunks, follower, pack)


def _at_quality(chunks: Iterable[Searched], tradeoff: float, pack: Pack[P]) -> Iterator[P]:
    """Codes at one trade-off, with a view ahead up to the end of each chunk.

    Where chunks are too short for a view, frames are decided as they come.
    """
    live: LiveChoice | None = None
    past: Floats | None = None  # levels, for the view back
    for chunk in chunks:
        seen = chunk.levels if past is None else np.concatenate([past, chunk.levels], axis=1)
        if live or seen.shape[1] < 2 * NEARBY_FRAMES:
            live = live or _begin(chunk)
            counts = live.push(_frames_first(chunk.errors), chunk.levels, tradeoff)
        else:
            counts = _choose(chunk, frame_weights(seen)[:, -chunk.levels.shape[1] :], tradeoff)
            past = seen[:, -NEARBY_FRAMES:]
        yield pack(keep(chunk.codes, counts))


def _follow_bitrate(chunks: Iterable[Searched], rate: LiveRate, pack: Pack[P]) -> Iterator[P]:
    """Codes whose average comes to a bitrate as it goes; frames are decided as they come."""
    live: LiveChoice | None = None
    for chunk in chunks:
        live = live or _begin(chunk)
        counts = live.push(_frames_first(chunk.errors), chunk.levels, rate.tradeoff)
        packed = pack(keep(chunk.codes, counts))
        rate.note(counts.size, packed.bits)
        yield packed


def _meet_bitrate(
    chunks: Iterable[Searched], budget: float, stage_bits: float, pack: Pack[P]
) -> Iterator[P]:
    """Codes that come to a number of bits: every chunk is taken in before the first is given.

    Args:
        chunks: of the whole file.
        budget: bits of all chunks.
        stage_bits: what a stage of a frame comes to, about, with all that stands around it.
        pack: what packs a chunk.
    """
    known = [_compact(chunk) for chunk in chunks]
    if not known:
        return
    errors = np.concatenate([_frames_first(chunk.errors) for chunk in known], axis=1)
    weights = frame_weights(np.concatenate([chunk.levels for chunk in known], axis=1))
    rate = FileRate(errors, weights, _rungs(known[0]), budget, stage_bits)

    def try_next(chunk: Searched) -> P:
        return pack(keep(chunk.codes, rate.plan(chunk.levels.shape[1])))

    for place, chunk in enumerate(known):
        packed = best = try_next(chunk)
        for _ in range(_TRIES if place >= len(known) - 2 else 0):  # the last may be all too short
            if abs(best.bits - rate.wanted) <= _NEAR_ENOUGH * budget:
                break
            rate.learn(packed.counts, packed.bits)
            before, packed = packed, try_next(chunk)
            best = min(best, packed, key=lambda tried: abs(tried.bits - rate.wanted))
            if (packed.counts == before.counts).all():
                break
        rate.keep(best.counts, best.bits)
        yield best


def _begin(chunk: Searched) -> LiveChoice:
    return LiveChoice(len(chunk.levels), _rungs(chunk))


def _rungs(searched: Searched) -> Counts:
    return ladder(searched.codes.shape[1])


def _choose(searched: Searched, weights: Floats, tradeoff: float) -> Counts:
    errors = _frames_first(searched.errors)
    return choose(errors, weights, _rungs(searched), np.array([tradeoff]))[0]


def _frames_first(errors: Floats) -> Floats:
    """[S, R, F] -> [S, F, R]."""
    return np.swapaxes(errors, 1, 2)


def _compact(chunk: Searched) -> Searched:
    """The same in as little memory as it takes."""
    return Searched(
        chunk.codes.astype(np.uint16),
        chunk.errors.astype(np.float32),
        chunk.levels.astype(np.float32),
    )
