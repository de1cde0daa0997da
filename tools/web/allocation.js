/**
 * How many stages each frame gets so that a file comes to a bitrate: src/bittern/model/allocation.py and
 * rate.py once more, for one stream that is known whole.
 */

const LEVEL_POWER = 0.2, NEARBY_FRAMES = 12, CHANGE = 0.5, BLOCK = 32;
const SPAN = [-16, 12], NEAR = 1.5, POINTS = 16, ROUNDS = 4, NEAR_ROUNDS = 2;
const FRAME_BITS = 3, CODED_SHARE = 0.92, HEADROOM = 2, NEAR_ENOUGH = 0.008, TRIES = 2;

/** The numbers of stages that frames are given: three to an octave, up to `stages`. */
export function ladder(stages) {
  const steps = Array.from({ length: Math.ceil(3 * Math.log2(stages) + 1) }, (_, n) => Math.min(Math.round(2 ** (n / 3)), stages));
  return [...new Set([...steps, stages])].sort((a, b) => a - b);
}

/** About how many stages frames have on average, at so many bits for each frame but for its chunk's overhead. */
export function likelyStages(frameBits, bitsPerCode, stages) {
  return Math.min(Math.max((frameBits - FRAME_BITS) / (CODED_SHARE * bitsPerCode), 1), stages);
}

/** The most stages that any frame is to be searched for. */
export function mostStages(likely, stages) {
  return ladder(stages).find((rung) => rung >= HEADROOM * likely - 1e-9) ?? stages;
}

/** What errors are worth beside each other: levels [F] in nepers -> [F], at most 1. */
export function frameWeights(levels) {
  return levels.map((level, frame) => {
    const near = levels.subarray(Math.max(frame - NEARBY_FRAMES, 0), frame + NEARBY_FRAMES + 1);
    return Math.exp(Math.fround(LEVEL_POWER) * (level - Math.max(...near)));
  });
}

/**
 * Chunks whose codes come to a number of bits.
 *
 * `errors`: for each rung [F]; `weights`: [F]; `chunkFrames`: frames of each chunk but the last; `budget`:
 * bits of all chunks; `stageBits`: what a stage of a frame comes to, about; `pack`: from the place of the
 * first frame and the stages of each to a chunk with its `bits`.
 */
export function meetBitrate(errors, weights, rungs, chunkFrames, budget, stageBits, pack) {
  const near = NEAR_ENOUGH * budget, frames = weights.length, chunks = [];
  const [tradeoff, chosen] = solve(errors, weights, rungs, budget / stageBits);
  for (let first = 0; first < frames; first += chunkFrames) {
    const end = Math.min(first + chunkFrames, frames);
    const share = total(chosen.subarray(first, end)) / total(chosen.subarray(first));
    const wanted = Math.max(budget, 0) * share;
    const attempt = () => {
      const stages = wanted / stageBits;
      const own = errors.map((row) => row.subarray(first, end));
      const [, counts] = solve(own, weights.subarray(first, end), rungs, stages, tradeoff);
      return { counts, ...pack(first, counts) };
    };
    const off = (chunk) => Math.abs(chunk.bits - wanted);
    let last = attempt(), best = last;
    for (let n = 0; n < TRIES && end + chunkFrames >= frames && off(best) > near; n++) {
      stageBits = last.bits / total(last.counts);
      const before = last;
      last = attempt();
      if (off(last) < off(best)) best = last;
      if (last.counts.every((count, frame) => count === before.counts[frame])) break;
    }
    stageBits = best.bits / total(best.counts);
    budget -= best.bits;
    chunks.push(best);
  }
  return chunks;
}

/** The trade-off at which frames have as many stages as a budget has, or nearly, and what it chooses. */
function solve(errors, weights, rungs, budget, near) {
  const rounds = near ? NEAR_ROUNDS : ROUNDS;
  let [low, high] = near ? [Math.log2(near) - NEAR, Math.log2(near) + NEAR] : SPAN;
  let best, chosen;
  for (let round = 0; round < rounds; round++) {
    const points = Array.from({ length: POINTS }, (_, n) => (n === POINTS - 1 ? high : low + (n * (high - low)) / (POINTS - 1)));
    const tried = points.map((point) => choose(errors, weights, rungs, 2 ** point));
    const misses = tried.map((counts) => Math.abs(total(counts) - budget));
    const place = misses.indexOf(Math.min(...misses));
    [low, high] = [points[Math.max(place - 1, 0)], points[Math.min(place + 1, POINTS - 1)]];
    [best, chosen] = [points[place], tried[place]];
  }
  return [2 ** best, chosen];
}

/** The best numbers of stages at one trade-off, by the Viterbi algorithm on blocks of frames. */
function choose(errors, weights, rungs, tradeoff) {
  const frames = weights.length, count = rungs.length;
  const chosen = new Int32Array(frames);
  const sums = new Float64Array(count), origins = new Int32Array(BLOCK);
  const changes = new Uint8Array(BLOCK * count);
  const cost = (frame, r) => (frame < frames ? Math.fround(errors[r][frame] * weights[frame]) + tradeoff * rungs[r] ** 2 : 0);
  for (let first = 0; first < frames; first += BLOCK) {
    for (let r = 0; r < count; r++) sums[r] = cost(first, r);
    for (let n = 1; n < BLOCK; n++) {
      let origin = 0, least = Infinity;
      for (let r = 0; r < count; r++) {
        const left = sums[r] + tradeoff * CHANGE * 2 * rungs[r];
        if (left < least) [least, origin] = [left, r];
      }
      origins[n] = origin;
      for (let r = 0; r < count; r++) {
        changes[n * count + r] = least < sums[r] ? 1 : 0;
        sums[r] = Math.min(sums[r], least) + cost(first + n, r);
      }
    }
    let at = sums.indexOf(Math.min(...sums));
    for (let n = BLOCK - 1; n >= 0; n--) {
      if (first + n < frames) chosen[first + n] = rungs[at];
      if (n && changes[n * count + at]) at = origins[n];
    }
  }
  return chosen;
}

function total(values) {
  return values.reduce((sum, value) => sum + value, 0);
}
