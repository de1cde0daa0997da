/** The container `.btn`: headers and chunks, field by field as in docs/format.md. */

import { join, pack, unpack } from "./payload.js";

const HEADER_BYTES = 52, ENTROPY_BYTES = 12, CHUNK_BYTES = 16, END_BYTES = 16;
const LIVE = 2n ** 64n - 1n;
const MOST_ROWS = 2 ** 17; // frames of all streams in a chunk

// fields between fingerprint and sample counts: name, offset, bytes, least, most
const FIELDS = [
  ["sampleRate", 14, 4, 1000, 768000],
  ["sourceRate", 18, 4, 1000, 768000],
  ["channels", 22, 1, 1, 255],
  ["sourceChannels", 23, 1, 1, 255],
  ["streams", 24, 1, 1, 255],
  ["hopLength", 25, 2, 1, 65535],
  ["bitsPerCode", 27, 1, 1, 16],
  ["stages", 28, 1, 1, 255],
  ["extraFrames", 29, 1, 0, 255],
  ["chunkFrames", 30, 2, 1, 65535],
];

/** Frames of each stream. */
export function frameCount(header) {
  return header.samples === 0 ? 0 : Math.ceil(header.samples / header.hopLength) + header.extraFrames;
}

/**
 * The bytes of a file.
 *
 * `header`: the fields above, version, fingerprint, samples, sourceSamples, and entropy, the fingerprint of
 * the entropy model, both in hexadecimal; `chunks`: {frames, layers, payload} in order, see `packChunk`.
 */
export function write(header, chunks) {
  const frames = chunks.reduce((sum, chunk) => sum + chunk.frames, 0);
  if (frames !== frameCount(header)) throw new Error(`${header.samples} samples are not ${frames} frames`);
  return join([headerBytes(header), ...chunks.map(chunkBytes)]);
}

/** A chunk of codes [streams][stages][frames], -1 where a frame has none (version 2). */
export function packChunk(codes, header, coder) {
  return { frames: codes[0][0].length, ...pack(codes, header, header.entropy ? coder : null) };
}

/** Bytes that stand before a chunk's payload, and before the first chunk. */
export const CHUNK_OVERHEAD = CHUNK_BYTES;
export function headerSize(header) {
  return HEADER_BYTES + (header.entropy ? ENTROPY_BYTES : 0);
}

/** The header of a file, checked; the sample counts of one that was written live come with its chunks. */
export function readHeader(data) {
  const text = String.fromCharCode(...data.subarray(0, 4));
  if (text !== "BTRN") throw new Error("not a .btn file");
  if (data.length < HEADER_BYTES) throw new Error("cut short in the header");
  const view = viewOf(data);
  const [version, coder] = [data[4], data[5]];
  if (version !== 1 && version !== 2) throw new Error(`.btn version ${version}; this page reads versions 1 and 2`);
  if (view.getUint32(48, true) !== crc32(data.subarray(0, 48))) throw new Error("the header is damaged (checksum)");
  if (coder > 1) throw new Error(`codes are packed by coder ${coder}; this page knows coders 0 and 1`);
  const header = { version, fingerprint: hex(data.subarray(6, 14)), entropy: null };
  for (const [name, at, bytes, least, most] of FIELDS) {
    header[name] = view[`getUint${8 * bytes}`](at, true);
    if (header[name] < least || header[name] > most) throw new Error(`the header makes no sense (${name} is ${header[name]})`);
  }
  if (header.streams * header.chunkFrames > MOST_ROWS) throw new Error("the header makes no sense (its chunks are too long)");
  if (coder === 1) {
    if (data.length < HEADER_BYTES + ENTROPY_BYTES) throw new Error("cut short in the header");
    header.entropy = hex(data.subarray(52, 60));
    if (view.getUint32(60, true) !== crc32(data.subarray(52, 60))) throw new Error("the header is damaged (checksum)");
  }
  header.live = view.getBigUint64(32, true) === LIVE;
  if (header.live !== (view.getBigUint64(40, true) === LIVE)) throw new Error("the header makes no sense (samples)");
  if (!header.live) setSamples(header, view, 32);
  return header;
}

/** The codes [streams][stages][frames] of each chunk, all checked; completes the header of a live file. */
export function readChunks(data, header, coder) {
  const view = viewOf(data), found = [];
  let at = headerSize(header), frames = 0;
  const total = header.live ? Infinity : frameCount(header);
  while (frames < total) {
    const place = `chunk ${found.length + 1}`;
    if (at + CHUNK_BYTES > data.length) throw new Error(`${place} is missing: the file is cut short`);
    if (view.getUint16(at, true) !== 0x7bb7) throw new Error(`${place} is damaged: no sync word`);
    const head = { index: view.getUint32(at + 2, true), frames: view.getUint16(at + 6, true), layers: data[at + 8] };
    const length = view.getUint16(at + 9, true) + 65536 * data[at + 11];
    const payload = data.subarray(at + CHUNK_BYTES, at + CHUNK_BYTES + length);
    if (payload.length < length) throw new Error(`${place} is cut short`);
    if (view.getUint32(at + 12, true) !== crc32(payload, crc32(data.subarray(at, at + 12)))) {
      throw new Error(`${place} is damaged: the checksum does not match`);
    }
    if (head.index !== found.length) throw new Error(`${place} is not here: chunk ${head.index + 1} is in its place`);
    at += CHUNK_BYTES + length;
    if (header.live && head.frames === 0 && length === END_BYTES) {
      setSamples(header, view, at - END_BYTES);
      if (frameCount(header) !== frames) throw new Error("the end chunk makes no sense");
      break;
    }
    const expected = Math.min(header.chunkFrames, total - frames);
    const short = header.live ? head.frames > expected || head.frames < 1 || frames % header.chunkFrames : head.frames !== expected;
    if (short || head.layers < 1 || head.layers > header.stages) throw new Error(`${place} is damaged: its lengths do not fit`);
    try {
      found.push(unpack(payload, head.layers, head.frames, header, header.entropy ? coder : null));
    } catch (error) {
      throw new Error(`${place} cannot be decoded (${error.message})`);
    }
    frames += head.frames;
  }
  if (at < data.length) throw new Error("bytes are left over after the last chunk");
  return found;
}

function setSamples(header, view, at) {
  const [samples, source] = [Number(view.getBigUint64(at, true)), Number(view.getBigUint64(at + 8, true))];
  if (source > 2 ** 53 || samples !== Math.ceil((source * header.sampleRate) / header.sourceRate)) {
    throw new Error("the header makes no sense (its sample counts are not the same duration)");
  }
  Object.assign(header, { samples, sourceSamples: source });
}

function headerBytes(header) {
  const data = new Uint8Array(headerSize(header)), view = viewOf(data);
  data.set([..."BTRN"].map((letter) => letter.charCodeAt(0)));
  data[4] = header.version;
  data[5] = header.entropy ? 1 : 0;
  data.set(unhex(header.fingerprint), 6);
  for (const [name, at, bytes] of FIELDS) view[`setUint${8 * bytes}`](at, header[name], true);
  view.setBigUint64(32, BigInt(header.samples), true);
  view.setBigUint64(40, BigInt(header.sourceSamples), true);
  view.setUint32(48, crc32(data.subarray(0, 48)), true);
  if (header.entropy) {
    data.set(unhex(header.entropy), 52);
    view.setUint32(60, crc32(data.subarray(52, 60)), true);
  }
  return data;
}

function chunkBytes({ frames, layers, payload }, index) {
  const data = new Uint8Array(CHUNK_BYTES + payload.length), view = viewOf(data);
  view.setUint16(0, 0x7bb7, true);
  view.setUint32(2, index, true);
  view.setUint16(6, frames, true);
  data[8] = layers;
  view.setUint16(9, payload.length & 65535, true);
  data[11] = payload.length >> 16;
  data.set(payload, CHUNK_BYTES);
  view.setUint32(12, crc32(payload, crc32(data.subarray(0, 12))), true);
  return data;
}

function viewOf(data) {
  return new DataView(data.buffer, data.byteOffset, data.byteLength);
}

function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function unhex(text) {
  return Uint8Array.from(text.match(/../g), (pair) => parseInt(pair, 16));
}

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
  return byte;
});

/** CRC-32 of zlib and PNG; `crc` is that of what stands before. */
export function crc32(data, crc = 0) {
  crc = ~crc;
  for (const byte of data) crc = TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}
