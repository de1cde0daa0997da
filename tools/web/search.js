/**
 * The encoder's search for codes, src/bittern/model/search.py once more: the best few partial sums of each
 * frame are kept from stage to stage. Distances are one matrix product a stage, run by onnxruntime. What float32
 * cannot tell apart is not searched again, as it is there: of codes that are equally near either may come out.
 */

const FRAMES = 128; // at once, which bounds the memory

/** All codebooks, [K, N, D] in float32, and what multiplies by them. */
export class Books {
  static async create(ort, { shape: [stages, size, dim], values }) {
    const books = new Books();
    Object.assign(books, { ort, stages, size, dim, values });
    books.session = await ort.InferenceSession.create(productGraph());
    books.books = Array.from({ length: stages }, (_, stage) => values.subarray(stage * size * dim, (stage + 1) * size * dim));
    books.norms = books.books.map((book) => Float32Array.from({ length: size }, (_, n) => energyOf(book, n * dim, dim)));
    return books;
  }

  /** [K], about how much of the latent's squared error each stage takes away. */
  get gains() {
    return this.norms.map((norms) => norms.reduce((sum, norm) => sum + norm, 0) / norms.length);
  }

  /** Squared distances of [M, D] to the codewords of a stage, less the squares of `rest`: [M, N]. */
  async scores(stage, rest) {
    const { ort, size, dim, session, books, norms } = this;
    const tensor = (values, ...shape) => new ort.Tensor("float32", values, shape);
    const { y } = await session.run({
      a: tensor(rest, rest.length / dim, dim), b: tensor(books[stage], size, dim), c: tensor(norms[stage], size),
    });
    return y.data;
  }
}

/** A search that can go on: codes of any number of stages come from the same steps. */
export class Search {
  /** `latent`: [F, D] in float32; `width`: candidates that are kept. */
  constructor(books, latent, width = 4) {
    this.books = books;
    this.latent = latent;
    this.frames = latent.length / books.dim;
    this.width = width;
    this.blocks = [];
    for (let first = 0; first < this.frames; first += FRAMES) {
      const rest = latent.slice(first * books.dim, (first + FRAMES) * books.dim);
      const frames = rest.length / books.dim;
      const energy = Float32Array.from({ length: frames }, (_, f) => energyOf(rest, f * books.dim, books.dim));
      this.blocks.push({ first, frames, rest, energy, steps: [] });
    }
  }

  /** Codes of `stages` stages: as many rows of [F]. */
  async codes(stages) {
    const found = Array.from({ length: stages }, () => new Int32Array(this.frames));
    for (const block of this.blocks) {
      while (block.steps.length < stages) await this.#step(block);
      this.#trace(block, stages, found);
    }
    return found;
  }

  /** What the first so many stages of codes leave over, squared: for each of `counts`, ascending, [F]. */
  errors(codes, counts) {
    const { dim, books } = this.books, rest = this.latent.slice(), found = [];
    let stage = 0;
    for (const count of counts) {
      for (; stage < count; stage++) {
        for (let f = 0, at = 0; f < this.frames; f++) {
          for (let d = 0, word = codes[stage][f] * dim; d < dim; d++, at++, word++) rest[at] -= books[stage][word];
        }
      }
      found.push(Float32Array.from({ length: this.frames }, (_, f) => energyOf(rest, f * dim, dim)));
    }
    return found;
  }

  /** One stage more of a block. */
  async #step(block) {
    const { books, width } = this, { size, dim } = books;
    const stage = block.steps.length, book = books.books[stage];
    const scores = await books.scores(stage, block.rest);
    const had = block.energy.length / block.frames; // candidates
    const keep = Math.min(width, had * size);
    const rest = new Float32Array(block.frames * keep * dim), energy = new Float32Array(block.frames * keep);
    const parents = new Uint8Array(block.frames * keep), codes = new Uint16Array(block.frames * keep);
    const places = new Int32Array(keep), least = new Float32Array(keep);
    for (let frame = 0; frame < block.frames; frame++) {
      smallest(scores.subarray(frame * had * size, (frame + 1) * had * size), block.energy.subarray(frame * had, (frame + 1) * had), least, places);
      for (let n = 0; n < keep; n++) {
        const at = frame * keep + n, parent = Math.floor(places[n] / size), code = places[n] % size;
        parents[at] = parent;
        codes[at] = code;
        for (let d = 0, from = (frame * had + parent) * dim; d < dim; d++) rest[at * dim + d] = block.rest[from + d] - book[code * dim + d];
        energy[at] = energyOf(rest, at * dim, dim);
      }
    }
    block.steps.push({ parents, codes, keep, best: bestOf(energy, block.frames) });
    Object.assign(block, { rest, energy });
  }

  /** The codes that led to the best candidate of the last of `stages`. */
  #trace(block, stages, found) {
    for (let frame = 0; frame < block.frames; frame++) {
      let at = block.steps[stages - 1].best[frame];
      for (let stage = stages - 1; stage >= 0; stage--) {
        const { parents, codes, keep } = block.steps[stage];
        found[stage][block.first + frame] = codes[frame * keep + at];
        at = parents[frame * keep + at];
      }
    }
  }
}

/** The least of scores + energy of their candidate, ascending, of equals the first, and their places. */
function smallest(scores, energy, least, places) {
  const size = scores.length / energy.length, last = least.length - 1;
  least.fill(Infinity);
  for (let parent = 0, at = 0; parent < energy.length; parent++) {
    for (const end = at + size, own = energy[parent]; at < end; at++) {
      const score = Math.fround(scores[at] + own);
      if (score >= least[last]) continue;
      let n = last;
      for (; n > 0 && score < least[n - 1]; n--) {
        least[n] = least[n - 1];
        places[n] = places[n - 1];
      }
      least[n] = score;
      places[n] = at;
    }
  }
}

/** Of each frame the candidate that leaves least over. */
function bestOf(energy, frames) {
  const count = energy.length / frames;
  return Uint8Array.from({ length: frames }, (_, frame) => {
    const own = energy.subarray(frame * count, (frame + 1) * count);
    return own.indexOf(Math.min(...own));
  });
}

function energyOf(values, at, length) {
  let sum = 0;
  for (const end = at + length; at < end; at++) sum += values[at] * values[at];
  return sum;
}

/** An ONNX graph of one operator: y = c - 2 a b^T, with a [M, D], b [N, D] and c [N]. */
function productGraph() {
  const varint = (value) => (value < 128 ? [value] : [(value & 127) | 128, ...varint(value >> 7)]);
  const number = (field, value) => [...varint(field << 3), ...varint(value)];
  const bytes = (field, data) => [...varint((field << 3) | 2), ...varint(data.length), ...data];
  const text = (field, letters) => bytes(field, [...letters].map((letter) => letter.charCodeAt(0)));
  const float = (field, value) => [...varint((field << 3) | 5), ...new Uint8Array(Float32Array.of(value).buffer)];
  const dims = (names) => bytes(2, names.flatMap((name) => bytes(1, text(2, name))));
  const value = (field, name, ...names) =>
    bytes(field, [...text(1, name), ...bytes(2, bytes(1, [...number(1, 1), ...dims(names)]))]);
  const node = [
    ...text(1, "a"), ...text(1, "b"), ...text(1, "c"), ...text(2, "y"), ...text(4, "Gemm"),
    ...bytes(5, [...text(1, "alpha"), ...float(2, -2), ...number(20, 1)]),
    ...bytes(5, [...text(1, "transB"), ...number(3, 1), ...number(20, 2)]),
  ];
  const graph = [
    ...bytes(1, node), ...text(2, "distances"), ...value(11, "a", "M", "D"), ...value(11, "b", "N", "D"),
    ...value(11, "c", "N"), ...value(12, "y", "M", "N"),
  ];
  return Uint8Array.from([...number(1, 8), ...bytes(7, graph), ...bytes(8, [...text(1, ""), ...number(2, 13)])]);
}
