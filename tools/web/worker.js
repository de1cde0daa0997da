/** The codec beside the page, so that the page answers while it works: one request after the other. */

import * as ort from "./ort.wasm.bundle.min.mjs";
import { Codec } from "./codec.js";

ort.env.wasm.numThreads = 1; // more would need headers that plain servers do not send
ort.env.logLevel = "error";

const loading = load();
let analysed = null; // the sound that is coded
let last = loading.catch(() => {});

async function load() {
  const about = await (await fetch("codec.json")).json();
  return Codec.load(ort, about, async (name) => {
    const response = await fetch(name);
    if (!response.ok) throw new Error(`${name} is not in the folder of the page`);
    return new Uint8Array(await response.arrayBuffer());
  });
}

const actions = {
  load: async ({ about }) => about,
  analyse: async (codec, samples) => {
    analysed = await codec.analyse(samples);
  },
  compress: (codec, kbps) => codec.compress(analysed, kbps),
  compressConstant: (codec, stages) => codec.compressConstant(analysed, stages),
  decompress: (codec, data) => codec.decompress(data),
};

self.onmessage = ({ data: { id, action, given } }) => {
  last = last.then(async () => {
    const began = performance.now();
    try {
      const result = await actions[action](await loading, given);
      self.postMessage({ id, result, seconds: (performance.now() - began) / 1000 });
    } catch (error) {
      self.postMessage({ id, error: error.message });
    }
  });
};
