"use strict";

/* Versions of one clip in rows, and what plays them: by mouse and by keyboard. */

const at = (id) => document.getElementById(id);
const player = new Player();
let rows = []; // a button for each version of the clip
let before = 1; // version to come back to from the original
let heads = [];

/** Make an HTML element with properties and children. */
function html(name, properties = {}, ...children) {
  const element = document.createElement(name);
  const { dataset = {}, ...rest } = properties;
  Object.assign(element, rest);
  Object.assign(element.dataset, dataset);
  element.append(...children);
  return element;
}

/** A row for each version: its name, its rate, and what else there is to say. */
function showRows(versions) {
  heads = [];
  rows = versions.map(versionRow);
  at("versions").replaceChildren(...rows);
}

function versionRow({ name, rate, score }, n) {
  const what = html("span", { className: "what" }, html("span", { className: "name" }, name),
    html("span", { className: "rate" }, rate), html("span", { className: "score" }, score));
  const head = html("span", { className: "head" });
  heads.push(head);
  const picture = html("span", { className: "picture" }, html("canvas", { ariaHidden: "true" }), head);
  picture.addEventListener("click", (event) => {
    // a click into the picture plays from there
    const box = picture.getBoundingClientRect();
    player.seek(((event.clientX - box.left) / box.width) * player.duration);
  });
  const row = html("button", { type: "button", className: "version", dataset: { name }, onclick: () => hear(n) }, what, picture);
  row.setAttribute("aria-pressed", "false");
  return row;
}

function hear(n) {
  if (n > 0) before = n;
  if (player.playing && player.active === n) return undefined;
  return player.play(n);
}

function showPlayer() {
  rows.forEach((row, n) => row.setAttribute("aria-pressed", String(n === player.active)));
  at("play").textContent = player.playing ? "Pause" : "Play";
  at("play").setAttribute("aria-pressed", String(player.playing));
}

function follow() {
  const share = player.duration ? player.place / player.duration : 0;
  at("clock").textContent = `${player.place.toFixed(1)} of ${player.duration.toFixed(1)} s`;
  for (const head of heads) head.style.left = `${100 * share}%`;
  requestAnimationFrame(follow);
}

function setUpPlayer() {
  at("play").onclick = () => player.toggle();
  at("loop").onchange = () => player.setLoop(at("loop").checked);
  player.onchange = showPlayer;
  follow();
}

function listenKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.target.closest("select, input, button:not(.version), a, .point, .scroll")) return;
  const count = rows.length;
  const actions = {
    " ": () => player.toggle(),
    ArrowDown: () => hear((player.active + 1) % count),
    ArrowUp: () => hear((player.active + count - 1) % count),
    ArrowRight: () => player.seek(player.place + 1),
    ArrowLeft: () => player.seek(player.place - 1),
    o: () => hear(player.active === 0 ? Math.min(before, count - 1) : 0),
  };
  const action = actions[event.key] ?? actions[event.key.toLowerCase()];
  if (!action || !count) return;
  event.preventDefault();
  action();
}
