/**
 * How probable each code is, given those known already: src/bittern/format/entropy.py once more, whose
 * frequencies it gives on any machine. All sums are of whole numbers that doubles hold exactly.
 */

import { RangeDecoder, RangeEncoder, TOTAL } from "./rangecoder.js";
import { readTensors } from "./safetensors.js";

const HIDDEN_MOST = 511, NARROW_MOST = 1023; // as in entropy.py

/** Codes chunks; see payload.js. */
export class EntropyModel {
  /** `data`: the bytes of an entropy.safetensors. */
  constructor(data) {
    const tensors = readTensors(data);
    const kept = Object.fromEntries(tensors.names.map((name) => [name, tensors.read(name)]));
    const read = (name) => kept[name];
    [this.stages, this.size, this.width] = read("embed").shape;
    const [, hidden, narrow] = read("second").shape;
    this.hidden = new Float64Array(hidden);
    this.sums = new Float64Array(narrow);
    this.narrow = new Int32Array(narrow);
    this.frequencies = new Int32Array(this.size);
    this.table = read("table").values;
    this.layers = Array.from({ length: this.stages }, (_, stage) => {
      const part = (name) => {
        const { shape, values } = read(name), each = values.length / shape[0];
        return values.subarray(stage * each, (stage + 1) * each);
      };
      const unit = 2 ** part("embed_shift")[0];
      return {
        embed: new Float64Array(part("embed")).map((value) => value * unit),
        first: transposed(part("first"), 3 * this.width),
        firstBias: part("first_bias"),
        firstScale: 2 ** -part("first_shift")[0],
        second: transposed(part("second"), hidden),
        secondScale: 2 ** -part("second_shift")[0],
        output: part("output"),
        outputBias: part("output_bias"),
        outputShift: part("output_shift")[0],
      };
    });
    this.logits = new Int32Array(this.size);
  }

  /** Begin a chunk, which depends on none before it. */
  start(streams, frames) {
    return new Chunk(this, streams, frames);
  }

  /** The frequencies of a stage's codes from contexts at t - 1, t and t + 1, [3 * E]; overwritten by the next. */
  expect(stage, window) {
    const { hidden, sums, narrow, logits, table, frequencies } = this;
    const layer = this.layers[stage];
    times(layer.first, window, hidden);
    for (let h = 0; h < hidden.length; h++) {
      hidden[h] = Math.min(Math.max(Math.floor((hidden[h] + layer.firstBias[h]) * layer.firstScale), 0), HIDDEN_MOST);
    }
    times(layer.second, hidden, sums);
    for (let d = 0; d < narrow.length; d++) {
      narrow[d] = Math.min(Math.max(Math.floor(sums[d] * layer.secondScale), -NARROW_MOST), NARROW_MOST);
    }
    const { output, outputBias, outputShift } = layer; // outside of the loops, which run a thousand times a code
    let best = 0;
    for (let code = 0, at = 0; code < logits.length; code++) {
      let sum = outputBias[code];
      for (let d = 0; d < narrow.length; d++, at++) sum = (sum + Math.imul(narrow[d], output[at])) | 0;
      logits[code] = sum;
      if (sum > logits[best]) best = code;
    }
    const highest = logits[best], last = table.length - 1;
    let total = 0;
    for (let code = 0; code < logits.length; code++) {
      frequencies[code] = table[Math.min((highest - logits[code]) >> outputShift, last)];
      total += frequencies[code];
    }
    const scale = (TOTAL - frequencies.length) / total;
    let rest = TOTAL;
    for (let code = 0; code < frequencies.length; code++) {
      frequencies[code] = Math.floor(frequencies[code] * scale) + 1;
      rest -= frequencies[code];
    }
    frequencies[best] += rest;
    return frequencies;
  }
}

/** What is known of a chunk while its codes come, layer by layer. */
class Chunk {
  constructor(model, streams, frames) {
    this.model = model;
    this.frames = frames;
    this.window = new Float64Array(3 * model.width);
    // a frame of nothing at either end of each stream, and two before its first codes
    this.context = new Float64Array(streams * (frames + 2) * model.width);
    this.first = new Int32Array(streams * (frames + 2)).fill(-1);
  }

  /** The bytes of the next layer, whose parts' codes stand one after the other. */
  encode(layer, codes) {
    const encoder = new RangeEncoder();
    let at = 0;
    this.#each(layer, (frequencies) => {
      encoder.push(frequencies(), codes[at]);
      return codes[at++];
    });
    return encoder.finish();
  }

  /** The codes of the next layer. */
  decode(layer, data) {
    const decoder = new RangeDecoder(data), codes = [];
    this.#each(layer, (frequencies) => {
      codes.push(decoder.pull(frequencies()));
      return codes.at(-1);
    });
    return codes;
  }

  /** Take note of the next layer, which is coded otherwise. */
  skip(layer, codes) {
    let at = 0;
    this.#each(layer, () => codes[at++]);
  }

  /** Go through a layer: `code` is given what to expect, and gives the code. */
  #each(layer, code) {
    for (const { stage, rows } of layer) {
      // codes of a part do not see each other, but for those of stage 0
      const found = Int32Array.from(rows, (row) => {
        const place = this.#place(row);
        const got = code(() => this.model.expect(stage, stage ? this.#around(place) : this.#before(place)));
        if (!stage) this.first[place + 1] = got;
        return got;
      });
      rows.forEach((row, n) => this.#note(stage, this.#place(row), found[n]));
    }
  }

  /** Where a row is in the context. */
  #place(row) {
    return row + 2 * Math.floor(row / this.frames) + 1;
  }

  #around(place) {
    const width = this.model.width;
    return this.context.subarray((place - 1) * width, (place + 2) * width);
  }

  /** Of stage 0: its codes one and two frames before. */
  #before(place) {
    const { width, layers: [{ embed }] } = this.model;
    this.window.fill(0);
    [this.first[place], this.first[place - 1]].forEach((code, n) => {
      if (code >= 0) this.window.set(embed.subarray(code * width, (code + 1) * width), n * width);
    });
    return this.window;
  }

  #note(stage, place, code) {
    const { width, layers } = this.model;
    for (let e = 0; e < width; e++) this.context[place * width + e] += layers[stage].embed[code * width + e];
  }
}

/** [n, m] -> [m, n], in doubles. */
function transposed(matrix, n) {
  const m = matrix.length / n, out = new Float64Array(matrix.length);
  for (let row = 0, at = 0; row < n; row++) for (let column = 0; column < m; column++, at++) out[column * n + row] = matrix[at];
  return out;
}

/** out = matrix @ vector, [m, n] @ [n]. */
function times(matrix, vector, out) {
  for (let m = 0, at = 0; m < out.length; m++) {
    let sum = 0;
    for (let n = 0; n < vector.length; n++, at++) sum += vector[n] * matrix[at];
    out[m] = sum;
  }
}
