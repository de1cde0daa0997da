"use strict";

/** Shuffle a copy, each order equally likely. */
function shuffled(list) {
  const copy = [...list];
  for (let i = copy.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [copy[i], copy[j]] = [copy[j], copy[i]];
  }
  return copy;
}

/** Chance of `correct` or more of `trials` by guessing. */
function guessing(correct, trials) {
  let sum = 0, term = 0.5 ** trials; // of 0 right
  for (let k = 0; k <= trials; k++) {
    if (k >= correct) sum += term;
    term *= (trials - k) / (k + 1);
  }
  return Math.min(sum, 1);
}

/**
 * What both tests share: a player, buttons with keys, and an end.
 *
 * `stage` is the element to draw in; `finish(rows)` is called with the table at the end.
 */
class BlindTest {
  constructor(stage, finish) {
    this.stage = stage;
    this.finish = finish;
    this.player = new Player();
    this.keys = new Map(); // key to action
    this.ended = false;
  }

  /** A button that a key presses as well. */
  button(label, key, action, properties = {}) {
    const shown = key === " " ? "Space" : key === "Enter" ? "Enter" : key.toUpperCase();
    const button = html("button", { type: "button", onclick: action, ...properties }, `${label} `, html("kbd", {}, shown));
    this.keys.set(key.toLowerCase(), action);
    return button;
  }

  handleKey(event) {
    const action = this.keys.get(event.key.toLowerCase());
    if (!action) return;
    event.preventDefault();
    action();
  }

  end(title, note, head, rows) {
    this.ended = true;
    this.player.pause();
    this.finish(title, note, head, rows);
  }

  mark(buttons) {
    buttons.forEach((button, index) => {
      button.setAttribute("aria-pressed", String(this.player.playing && this.player.active === index));
    });
  }
}

/** ABX: X is one of two versions; which? */
class AbxTest extends BlindTest {
  constructor(stage, finish, { clips, first, second, trials }) {
    super(stage, finish);
    this.names = [first, second];
    this.trials = Array.from({ length: trials }, (_, n) => ({
      clip: clips[n % clips.length], x: Math.random() < 0.5 ? 0 : 1, said: null,
    }));
    this.trials = shuffled(this.trials);
    this.number = 0;
  }

  async start() {
    const trial = this.trials[this.number];
    const pair = this.names.map((name) => versionOf(trial.clip, name).audio);
    const ready = await this.player.load([...pair, pair[trial.x]]);
    if (ready && !this.ended) this.draw();
  }

  draw() {
    this.keys.clear();
    const listen = ["A", "B", "X"].map((letter, index) => this.button(letter, letter, () => this.player.play(index)));
    const answers = ["A", "B"].map((letter, index) =>
      this.button(`X is ${letter}`, String(index + 1), () => this.answer(index), { className: "primary" }));
    this.stage.replaceChildren(
      html("p", { className: "progress" }, `Trial ${this.number + 1} of ${this.trials.length}`),
      html("div", { className: "bar" }, ...listen, this.button("Play or pause", " ", () => this.player.toggle())),
      html("div", { className: "bar" }, ...answers, this.button("Stop here", "Escape", () => this.result())),
    );
    this.player.onchange = () => this.mark(listen);
    this.player.play(2);
  }

  answer(index) {
    this.keys.clear(); // one answer a trial
    this.player.pause();
    this.trials[this.number].said = index;
    this.number += 1;
    if (this.number < this.trials.length) this.start();
    else this.result();
  }

  result() {
    const done = this.trials.filter((trial) => trial.said !== null);
    const correct = done.filter((trial) => trial.said === trial.x).length;
    const chance = guessing(correct, done.length);
    const verdict = chance < 0.05 ? "you most likely hear a difference" : "this may well be guessing";
    this.end(
      `${correct} of ${done.length} right`,
      `A was ${this.names[0]}, B was ${this.names[1]}. So many or more would come by guessing with a probability of `
        + `${chance.toPrecision(2)}: ${verdict}.`,
      ["Trial", "Clip", "X was", "You said", ""],
      done.map((trial, n) => [
        String(n + 1), trial.clip.clip, this.names[trial.x], this.names[trial.said], trial.said === trial.x ? "right" : "wrong",
      ]),
    );
  }
}

/** Rating in the manner of MUSHRA: all versions of a clip at once, the original hidden among them. */
class RatingTest extends BlindTest {
  constructor(stage, finish, { clips, trials }) {
    super(stage, finish);
    this.trials = shuffled(clips).slice(0, trials).map((clip) => {
      const order = shuffled(clip.versions);
      return { clip, order, ratings: order.map(() => 50), done: false };
    });
    this.number = 0;
    this.slot = 0;
  }

  async start() {
    const trial = this.trials[this.number];
    const open = versionOf(trial.clip, ORIGINAL).audio;
    const ready = await this.player.load([open, ...trial.order.map((version) => version.audio)]);
    if (ready && !this.ended) this.draw();
  }

  draw() {
    const trial = this.trials[this.number];
    this.keys.clear();
    this.slot = -1; // the open reference
    const buttons = [this.button("Reference", "r", () => this.go(-1))];
    const slots = trial.order.map((_, index) => {
      const output = html("output", {}, "50");
      const slider = html("input", {
        type: "range", min: 0, max: 100, value: 50, ariaLabel: `Rating of version ${index + 1}`,
        oninput: () => {
          trial.ratings[index] = Number(slider.value);
          output.textContent = slider.value;
        },
      });
      const button = html("button", { type: "button", onclick: () => this.go(index) }, String(index + 1));
      if (index < 9) this.keys.set(String(index + 1), () => this.go(index));
      buttons.push(button);
      return html("div", { className: "slot" }, button, slider, output);
    });
    this.sliders = slots.map((slot) => slot.querySelector("input"));
    this.keys.set("arrowright", () => this.go(Math.min(this.slot + 1, slots.length - 1)));
    this.keys.set("arrowleft", () => this.go(Math.max(this.slot - 1, -1)));
    this.keys.set("arrowup", () => this.change(5));
    this.keys.set("arrowdown", () => this.change(-5));
    const last = this.number === this.trials.length - 1;
    this.stage.replaceChildren(
      html("p", { className: "progress" }, `Clip ${this.number + 1} of ${this.trials.length}: how near to the reference? `
        + "100 is no difference, 0 is useless. One of them is the original."),
      html("div", { className: "bar" }, buttons[0], this.button("Play or pause", " ", () => this.player.toggle())),
      ...slots,
      html("p", { className: "hint" }, "1 to 9 or ← → choose a version, ↑ ↓ rate it."),
      html("div", { className: "bar" },
        this.button(last ? "Finish" : "Next clip", "Enter", () => this.next(), { className: "primary" }),
        this.button("Stop here", "Escape", () => this.result())),
    );
    this.player.onchange = () => this.mark(buttons);
    this.player.play(0);
  }

  go(slot) {
    this.slot = slot;
    this.player.play(slot + 1);
  }

  change(step) {
    const slider = this.sliders[this.slot];
    if (!slider) return;
    slider.value = String(Number(slider.value) + step);
    slider.dispatchEvent(new Event("input"));
  }

  next() {
    this.keys.clear();
    this.trials[this.number].done = true;
    this.player.pause();
    this.number += 1;
    if (this.number < this.trials.length) this.start();
    else this.result();
  }

  result() {
    const ratings = new Map();
    const done = this.trials.filter((trial) => trial.done);
    for (const trial of done) {
      trial.order.forEach((version, index) => {
        const name = version.system ?? ORIGINAL;
        ratings.set(name, [...(ratings.get(name) ?? []), trial.ratings[index]]);
      });
    }
    const mean = (list) => list.reduce((a, b) => a + b, 0) / list.length;
    const rows = [...ratings].map(([name, list]) => [name, list]).sort((a, b) => mean(b[1]) - mean(a[1]));
    this.end(
      `Your ratings of ${done.length} ${done.length === 1 ? "clip" : "clips"}`,
      "A listener who does not find the hidden original is told little by the rest.",
      ["Version", "kbit/s", "Mean", "Lowest", "Highest"],
      rows.map(([name, list]) => [
        name === ORIGINAL ? "Original (hidden)" : name, rateOf(name), mean(list).toFixed(0),
        String(Math.min(...list)), String(Math.max(...list)),
      ]),
    );
  }
}
