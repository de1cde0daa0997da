/** Samples to the bytes of a `.btn` file and back, by the graphs and weights of a checkpoint. */

import { frameWeights, ladder, likelyStages, meetBitrate, mostStages } from "./allocation.js";
import { CHUNK_OVERHEAD, frameCount, headerSize, packChunk, readChunks, readHeader, write } from "./container.js";
import { EntropyModel } from "./entropy.js";
import { readTensors } from "./safetensors.js";
import { Books, Search } from "./search.js";

const CHUNK_SECONDS = 6, PORTION = 512; // frames to decode at once
export const MOST_SECONDS = 20 * 60; // that are coded; src/bittern/model/rate.py knows files whole up to here

export class Codec {
  /**
   * `ort`: onnxruntime-web; `about`: codec.json, see build.mjs; `read`: gives the bytes of a file of the folder.
   */
  static async load(ort, about, read) {
    const codec = new Codec();
    const [encoder, decoder, weights, entropy] = await Promise.all(
      ["encoder.onnx", "decoder.onnx", "model.safetensors", "entropy.safetensors"].map(read),
    );
    const externalData = [{ path: "model.safetensors", data: weights }];
    Object.assign(codec, { ort, about, read, config: about.config });
    codec.encoder = await ort.InferenceSession.create(encoder, { externalData });
    codec.decoder = await ort.InferenceSession.create(decoder, { externalData });
    codec.books = await Books.create(ort, readTensors(weights).read("quantizer.codewords"));
    codec.entropy = new EntropyModel(entropy);
    return codec;
  }

  get frameRate() {
    return this.config.sample_rate / this.config.hop_length;
  }

  /** Begin to code samples at the model's rate, one channel: what `compress` takes, for any number of files. */
  async analyse(samples) {
    if (!samples.length) throw new Error("there is no sound in it");
    if (samples.length > MOST_SECONDS * this.config.sample_rate) {
      throw new Error(`it is longer than ${MOST_SECONDS / 60} minutes; the command line codes files of any length`);
    }
    if (!samples.every(Number.isFinite)) throw new Error("a sample is not finite");
    const hop = this.config.hop_length, frames = frameCount(this.#header({ samples: samples.length }));
    const padded = new Float32Array(frames * hop);
    padded.set(samples);
    const state = this.#begin(this.encoder, 1), latents = [], levels = [];
    const portion = this.#chunkFrames * hop; // as pipeline.py pushes them
    for (let begin = 0; begin < padded.length; begin += portion) {
      const part = padded.slice(begin, begin + portion);
      const found = await this.#run(this.encoder, state, { samples: this.#floats(part, [1, 1, part.length]) });
      latents.push(found.latent.data);
      levels.push(found.levels?.data ?? new Float32Array(part.length / hop));
    }
    return { samples: samples.length, search: new Search(this.books, concatenate(latents)), levels: concatenate(levels) };
  }

  /** A file of an average bitrate, all its bytes counted, in which each frame has stages of its own. */
  async compress(analysed, bitrateKbps) {
    const { search, levels, samples } = analysed, { quantizer } = this.config;
    const frameBits = ((bitrateKbps - (8 * CHUNK_OVERHEAD) / 1000 / CHUNK_SECONDS) * 1000) / this.frameRate;
    const likely = likelyStages(frameBits, this.#bitsPerCode, quantizer.stages);
    const header = this.#header({ version: 2, samples, stages: mostStages(likely, quantizer.stages) });
    const codes = await search.codes(header.stages), rungs = ladder(header.stages);
    const errors = search.errors(codes, rungs), weights = frameWeights(levels);
    const budget = (bitrateKbps * 1000 * samples) / this.config.sample_rate - 8 * headerSize(header);
    const pack = (first, counts) => {
      const kept = codes.map((stage, k) => Int32Array.from(counts, (count, f) => (k < count ? stage[first + f] : -1)));
      const chunk = packChunk([kept], header, this.entropy);
      return { ...chunk, bits: 8 * (CHUNK_OVERHEAD + chunk.payload.length) };
    };
    const stageBits = (bitrateKbps * 1000) / this.frameRate / likely;
    const chunks = meetBitrate(errors, weights, rungs, this.#chunkFrames, budget, stageBits, pack);
    return write(header, chunks);
  }

  /** A file whose frames all have `stages` stages. */
  async compressConstant(analysed, stages) {
    const header = this.#header({ version: 1, samples: analysed.samples, stages });
    const codes = await analysed.search.codes(stages), chunks = [];
    for (let first = 0; first < codes[0].length; first += header.chunkFrames) {
      const kept = codes.map((stage) => stage.subarray(first, first + header.chunkFrames));
      chunks.push(packChunk([kept], header, this.entropy));
    }
    return write(header, chunks);
  }

  /** The samples of a file at the model's rate, [channels] of [T], its header, and the mean number of stages. */
  async decompress(data) {
    const header = readHeader(data);
    this.#checkFits(header);
    const pieces = readChunks(data, header, await this.#entropyOf(header.entropy));
    const state = this.#begin(this.decoder, header.streams);
    const channels = Array.from({ length: header.streams * header.channels }, () => []);
    let codes = 0, frames = 0;
    for (const piece of pieces) {
      const length = piece[0][0].length;
      frames += header.streams * length;
      for (const stages of piece) for (const stage of stages) for (const code of stage) codes += code >= 0;
      for (let first = 0; first < length; first += PORTION) {
        const end = Math.min(first + PORTION, length);
        const rows = piece.flatMap((stages) => stages.map((stage) => stage.subarray(first, end)));
        const shape = [header.streams, piece[0].length, end - first];
        const { samples } = await this.#run(this.decoder, state, {
          codes: new this.ort.Tensor("int64", BigInt64Array.from(concatenate(rows, Int32Array), BigInt), shape),
          fade: this.#floats(new Float32Array(end - first).fill(1), [end - first]),
        });
        const each = samples.data.length / channels.length;
        channels.forEach((parts, n) => parts.push(samples.data.slice(n * each, (n + 1) * each)));
      }
    }
    const delay = header.extraFrames * header.hopLength; // of the synthesis
    return {
      header,
      meanStages: codes / Math.max(frames, 1),
      samples: channels.map((parts) => concatenate(parts).slice(delay, delay + header.samples)),
    };
  }

  get #bitsPerCode() {
    return Math.log2(this.config.quantizer.codebook_size);
  }

  /** In eights, which are whole bytes at any width of codes. */
  get #chunkFrames() {
    return Math.ceil(Math.round(CHUNK_SECONDS * this.frameRate) / 8) * 8;
  }

  #header(fields) {
    const { config, about } = this;
    return {
      fingerprint: about.fingerprint,
      entropy: about.entropy,
      sampleRate: config.sample_rate,
      sourceRate: config.sample_rate,
      channels: config.channels,
      sourceChannels: config.channels,
      streams: 1,
      hopLength: config.hop_length,
      bitsPerCode: this.#bitsPerCode,
      extraFrames: about.extraFrames,
      chunkFrames: this.#chunkFrames,
      sourceSamples: fields.samples,
      ...fields,
    };
  }

  #checkFits(header) {
    const { about, config } = this;
    if (![about.fingerprint, ...about.decodes].includes(header.fingerprint)) {
      throw new Error(`made by model ${header.fingerprint}, but this page has ${about.fingerprint} (${config.name})`);
    }
    if (header.entropy && ![about.entropy, ...about.formerEntropy].includes(header.entropy)) {
      throw new Error(`needs entropy model ${header.entropy}, but this page has ${about.entropy}`);
    }
    const own = this.#header({ samples: 0, stages: Math.min(header.stages, config.quantizer.stages) });
    for (const name of ["sampleRate", "channels", "hopLength", "bitsPerCode", "extraFrames", "stages"]) {
      if (header[name] !== own[name]) throw new Error(`the header says ${name} ${header[name]}, but its model has ${own[name]}`);
    }
  }

  /** The entropy model of a fingerprint: the one in use, or one of before. */
  async #entropyOf(fingerprint) {
    const former = this.about.formerEntropy.includes(fingerprint);
    return former ? new EntropyModel(await this.read(`entropy-${fingerprint}.safetensors`)) : this.entropy;
  }

  #floats(values, shape) {
    return new this.ort.Tensor("float32", values, shape);
  }

  /** The state of a graph before the first frame. */
  #begin(session, streams) {
    const sizes = { streams, rows: streams * this.config.channels };
    const inputs = session.inputMetadata.filter(({ name }) => name.startsWith("state."));
    return Object.fromEntries(inputs.map(({ name, shape }) => {
      const known = shape.map((size) => sizes[size] ?? size);
      return [name, this.#floats(new Float32Array(known.reduce((product, size) => product * size, 1)), known)];
    }));
  }

  /** What comes of inputs and a state, which moves on. */
  async #run(session, state, inputs) {
    const found = await session.run({ ...inputs, ...state });
    for (const name of Object.keys(state)) state[name] = found[name.replace("state.", "next.")];
    return found;
  }
}

function concatenate(parts, Kind = Float32Array) {
  const out = new Kind(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
