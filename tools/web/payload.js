/** The payloads of chunks, of both versions of docs/format.md. Codes are rows [S * k] of [F], -1 for none. */

import { RangeDecoder, RangeEncoder, TOTAL } from "./rangecoder.js";

const STAGES_A_LAYER = 2; // about, on average, as src/bittern/format/ragged.py has it

/**
 * The payload of codes and its number of layers.
 *
 * `header` says version, streams, stages and bitsPerCode; `codes` is [streams][stages][frames]; without a
 * `coder` every layer is raw.
 */
export function pack(codes, header, coder) {
  const streams = codes.length, frames = codes[0][0].length;
  const chunk = coder?.start(streams, frames);
  if (header.version === 1) return packWhole(codes, header, chunk, streams * frames, frames);
  const counts = codes.flatMap((stages) => Array.from({ length: frames }, (_, f) => stages.filter((s) => s[f] >= 0).length));
  const mean = counts.reduce((sum, count) => sum + count, 0) / counts.length;
  const layers = Math.max(roundHalfEven(mean / STAGES_A_LAYER), 1);
  const parts = [[layers], ...shorter(encodeCounts(counts, frames, header.stages), Uint8Array.from(counts))];
  for (const layer of plan(counts, layers)) {
    const values = gather(codes, layer, frames);
    const raw = packBits(values, header.bitsPerCode);
    parts.push(...shorter(chunk?.encode(layer, values), raw));
  }
  return { payload: join(parts), layers };
}

/** The codes [streams][stages][frames] of a payload; in version 1 `stages` is `layers`. */
export function unpack(payload, layers, frames, header, coder) {
  const stages = header.version === 1 ? layers : header.stages;
  const codes = Array.from({ length: header.streams }, () =>
    Array.from({ length: stages }, () => new Int32Array(frames).fill(-1)));
  const rows = header.streams * frames;
  const chunk = coder?.start(header.streams, frames);
  const pieces = header.version === 1 ? splitWhole(payload, layers, rows, header) : splitRagged(payload, layers, frames, header);
  for (const { layer, data, coded } of pieces) {
    scatter(decodeLayer(layer, data, coded, header.bitsPerCode, chunk), layer, codes, frames);
  }
  return codes;
}

/* ---- Version 1: all frames have the same stages ---- */

function packWhole(codes, header, chunk, rows, frames) {
  const parts = [];
  for (const layer of wholeStages(codes[0].length, rows)) {
    const values = gather(codes, layer, frames);
    const raw = packBits(values, header.bitsPerCode);
    if (!header.entropy) {
      parts.push(raw);
      continue;
    }
    const data = chunk ? chunk.encode(layer, values) : raw;
    const length = varint(data.length);
    parts.push(...(length.length + data.length >= 1 + raw.length ? [[0], raw] : [length, data]));
  }
  return { payload: join(parts), layers: codes[0].length };
}

function splitWhole(payload, layers, rows, header) {
  const width = rawBytes(rows, header.bitsPerCode);
  const reader = new Reader(payload);
  const pieces = wholeStages(layers, rows).map((layer) => {
    const length = header.entropy ? reader.varint() : 0;
    return { layer, data: reader.bytes(length || width), coded: length > 0 };
  });
  reader.finish();
  return pieces;
}

function wholeStages(stages, rows) {
  const all = Array.from({ length: rows }, (_, row) => row);
  return Array.from({ length: stages }, (_, stage) => [{ stage, rows: all }]);
}

/* ---- Version 2: each frame has a number of its own ---- */

function splitRagged(payload, layers, frames, header) {
  const total = payload[0];
  if (!payload.length || total < layers) throw new Error("it has more layers than it was made with");
  const reader = new Reader(payload, 1);
  const piece = () => {
    const value = reader.varint();
    return { data: reader.bytes(value >> 1), coded: value % 2 === 0 };
  };
  const { data, coded } = piece(), rows = header.streams * frames;
  const counts = coded ? decodeCounts(data, rows, frames, header.stages) : Array.from(data);
  if (counts.length !== rows || highest(counts) > header.stages) throw new Error("its numbers of stages make no sense");
  const pieces = plan(counts, total).slice(0, layers).map((layer) => ({ layer, ...piece() }));
  reader.finish();
  for (const { layer, data, coded } of pieces) {
    const size = layer.reduce((sum, part) => sum + part.rows.length, 0);
    if (coded ? !size : data.length !== rawBytes(size, header.bitsPerCode)) {
      throw new Error("a layer is not as long as its codes are");
    }
  }
  return pieces;
}

/** What each layer holds: the stages from the share (i - 1) / L of every frame's up to i / L, rounded up. */
function plan(counts, layers) {
  const share = (layer) => counts.map((count) => Math.ceil((count * layer) / layers));
  return Array.from({ length: layers }, (_, layer) => {
    const have = share(layer), need = share(layer + 1), parts = [];
    for (let stage = 0, end = highest(need); stage < end; stage++) {
      const rows = [];
      for (let row = 0; row < counts.length; row++) if (have[row] <= stage && stage < need[row]) rows.push(row);
      if (rows.length) parts.push({ stage, rows });
    }
    return parts;
  });
}

function encodeCounts(counts, frames, most) {
  const model = new Adaptive(most), encoder = new RangeEncoder();
  counts.forEach((count, row) => {
    if (row % frames === 0) model.begin();
    encoder.push(model.frequencies(), count);
    model.note(count);
  });
  return encoder.finish();
}

function decodeCounts(data, rows, frames, most) {
  const model = new Adaptive(most), decoder = new RangeDecoder(data);
  return Array.from({ length: rows }, (_, row) => {
    if (row % frames === 0) model.begin();
    const count = decoder.pull(model.frequencies());
    model.note(count);
    return count;
  });
}

/** What the next count may be. */
class Adaptive {
  constructor(most) {
    this.size = most + 1;
    this.seen = new Array(this.size).fill(1);
    this.followed = Array.from({ length: this.size }, () => new Array(this.size).fill(0));
  }

  begin() {
    this.last = null;
  }

  note(count) {
    this.seen[count] += 4;
    if (this.last !== null) this.followed[this.last][count] += 64;
    this.last = count;
  }

  frequencies() {
    const weights = this.seen.map((seen, n) =>
      seen + (this.last === null ? 0 : this.followed[this.last][n] + (n === this.last ? 128 : 0)));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    const found = weights.map((weight) => 1 + Math.floor((weight * (TOTAL - this.size)) / sum));
    found[weights.indexOf(Math.max(...weights))] += TOTAL - found.reduce((total, count) => total + count, 0);
    return found;
  }
}

function highest(values) {
  return values.reduce((most, value) => Math.max(most, value), -Infinity);
}

/** Whichever is shorter, with its length before it: twice the bytes, 1 more if they are raw. */
function shorter(coded, raw) {
  return coded && coded.length < raw.length ? [varint(2 * coded.length), coded] : [varint(2 * raw.length + 1), raw];
}

/* ---- What both have in common ---- */

function decodeLayer(layer, data, coded, bits, chunk) {
  if (coded) {
    if (!chunk) throw new Error("its codes need an entropy model");
    return chunk.decode(layer, data);
  }
  const codes = unpackBits(data, layer.reduce((sum, part) => sum + part.rows.length, 0), bits);
  chunk?.skip(layer, codes);
  return codes;
}

function gather(codes, layer, frames) {
  return layer.flatMap(({ stage, rows }) => rows.map((row) => codes[Math.floor(row / frames)][stage][row % frames]));
}

function scatter(values, layer, codes, frames) {
  let at = 0;
  for (const { stage, rows } of layer) {
    for (const row of rows) codes[Math.floor(row / frames)][stage][row % frames] = values[at++];
  }
}

function rawBytes(count, bits) {
  return Math.ceil((count * bits) / 8);
}

function packBits(codes, bits) {
  const out = new Uint8Array(rawBytes(codes.length, bits));
  codes.forEach((code, n) => {
    for (let bit = 0; bit < bits; bit++) {
      const at = n * bits + bit;
      if ((code >> (bits - 1 - bit)) & 1) out[at >> 3] |= 128 >> (at & 7);
    }
  });
  return out;
}

function unpackBits(data, count, bits) {
  return Array.from({ length: count }, (_, n) => {
    let code = 0;
    for (let at = n * bits; at < (n + 1) * bits; at++) code = 2 * code + ((data[at >> 3] >> (7 - (at & 7))) & 1);
    return code;
  });
}

/** 7 bits to a byte, low ones first; all but the last byte with 128 added. */
function varint(value) {
  const digits = [];
  for (; value >= 128; value >>= 7) digits.push((value & 127) | 128);
  return [...digits, value];
}

class Reader {
  constructor(data, at = 0) {
    this.data = data;
    this.at = at;
  }

  varint() {
    for (let place = 0, value = 0; place < 4 && this.at < this.data.length; place++) {
      const byte = this.data[this.at++];
      value += (byte & 127) * 2 ** (7 * place);
      if (byte < 128) {
        if (place && !byte) break;
        return value;
      }
    }
    throw new Error("a length in the payload makes no sense");
  }

  bytes(length) {
    this.at += length;
    if (this.at > this.data.length) throw new Error("a layer is longer than its payload");
    return this.data.subarray(this.at - length, this.at);
  }

  finish() {
    if (this.at !== this.data.length) throw new Error("its layers do not end where it ends");
  }
}

/** As Python rounds. */
function roundHalfEven(value) {
  const floor = Math.floor(value);
  return value - floor === 0.5 ? floor + (floor % 2) : Math.round(value);
}

export function join(parts) {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
