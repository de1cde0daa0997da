"use strict";

const FADE_SECONDS = 0.008;

/**
 * Plays several versions of one clip in step.
 *
 * All run at once, each through its own gain; all gains but one are 0. Switching is a short
 * cross-fade between gains, so it keeps the place to the sample and leaves no gap.
 */
class Player {
  #context = null;
  #buffers = [];
  #sources = [];
  #gains = [];
  #startedAt = 0; // the context's time at which place 0 would have been
  #place = 0; // seconds, while paused
  #wanted = 0; // counts loads: only the last one may finish

  playing = false;
  active = 0;
  loop = true;
  onchange = () => {};

  get duration() {
    return this.#buffers[0]?.duration ?? 0;
  }

  get buffers() {
    return this.#buffers;
  }

  /** Where playing is, in seconds. */
  get place() {
    if (!this.playing) return this.#place;
    const elapsed = this.#context.currentTime - this.#startedAt;
    const gone = Math.max(elapsed, 0); // it begins a moment after play() is called
    return this.loop ? gone % this.duration : Math.min(gone, this.duration);
  }

  /** The gain of each version, for tests. */
  get levels() {
    return this.#gains.map((gain) => gain.gain.value);
  }

  /** Decode the versions at `urls`; false if another load has overtaken this one. */
  async load(urls) {
    const mine = ++this.#wanted;
    this.pause();
    this.#place = 0;
    this.#context ??= new AudioContext();
    const decoded = await Promise.all(urls.map(async (url) => this.#context.decodeAudioData(await fetchAudio(url))));
    if (mine !== this.#wanted) return false;
    this.#buffers = decoded;
    this.active = Math.min(this.active, urls.length - 1);
    this.onchange();
    return true;
  }

  /** Play a version from where playing is; while playing, switch to it. */
  async play(version = this.active) {
    if (!this.#buffers.length) return;
    if (this.playing) {
      this.select(version);
      return;
    }
    this.active = version;
    await this.#context.resume();
    if (this.playing) {
      this.select(this.active); // another call was faster
      return;
    }
    const place = this.#place >= this.duration - 0.02 ? 0 : this.#place;
    const begin = this.#context.currentTime + 0.03;
    this.#startedAt = begin - place;
    this.#gains = this.#buffers.map((_, index) => {
      const gain = new GainNode(this.#context, { gain: index === this.active ? 1 : 0 });
      gain.connect(this.#context.destination);
      return gain;
    });
    this.#sources = this.#buffers.map((buffer, index) => {
      const source = new AudioBufferSourceNode(this.#context, { buffer, loop: this.loop, loopEnd: this.duration });
      source.connect(this.#gains[index]);
      source.start(begin, place);
      return source;
    });
    const first = this.#sources[0];
    first.onended = () => {
      if (this.playing && this.#sources[0] === first) this.#halt(0);
    };
    this.playing = true;
    this.onchange();
  }

  pause() {
    if (this.playing) this.#halt(this.place);
  }

  toggle() {
    return this.playing ? this.pause() : this.play();
  }

  /** Hear another version, at the same place. */
  select(version) {
    this.active = version;
    const now = this.#context?.currentTime ?? 0;
    this.#gains.forEach((gain, index) => {
      const level = gain.gain;
      level.cancelScheduledValues(now);
      level.setValueAtTime(level.value, now);
      level.linearRampToValueAtTime(index === version ? 1 : 0, now + FADE_SECONDS);
    });
    this.onchange();
  }

  async seek(place) {
    const resume = this.playing;
    if (resume) this.#halt(0);
    this.#place = Math.min(Math.max(place, 0), this.duration);
    if (resume) await this.play();
    this.onchange();
  }

  setLoop(loop) {
    const place = this.place;
    this.loop = loop;
    return this.seek(place);
  }

  #halt(place) {
    for (const source of this.#sources) {
      source.onended = null;
      source.stop();
      source.disconnect();
    }
    for (const gain of this.#gains) gain.disconnect();
    this.#sources = [];
    this.#gains = [];
    this.playing = false;
    this.#place = place;
    this.onchange();
  }
}

/** The bytes at a URL; data URLs are decoded here, so that nothing is requested. */
async function fetchAudio(url) {
  if (!url.startsWith("data:")) return (await fetch(url)).arrayBuffer();
  const text = atob(url.slice(url.indexOf(",") + 1));
  return Uint8Array.from(text, (letter) => letter.charCodeAt(0)).buffer;
}
