"use strict";
// What the page knows and how it writes it: the episode, the tree of a move, numbers, colours.

const byId = (id) => document.getElementById(id);
const read = (id) => JSON.parse(byId(id).textContent);

const episode = read("episode");
const moves = episode.moves.map(([number, action, reward, before, value]) => ({ number, action, reward, before, value }));
const state = { move: 0, open: new Set([""]), selected: "", timer: null };
let tree = null; // of the move that is shown

const CACHED_MOVES = 30;
const cache = new Map();

// Reads the tree of a move when it is first shown, and finds its way through it.
// A path is the actions from the root, such as "1/0/1"; the root's is "". It names the same line of play in every tree.
function load(move) {
  if (cache.has(move)) return cache.get(move);
  const data = read(`move-${move}`);
  const { parent, action } = data.nodes;
  data.children = parent.map(() => []);
  data.paths = parent.map(() => "");
  data.places = new Map([["", 0]]);
  data.levels = parent.map(() => 0);
  data.views = data.nodes.view ?? parent.map(() => 1);
  for (let place = 1; place < parent.length; place++) {
    const above = parent[place];
    data.children[above].push(place);
    data.levels[place] = data.levels[above] + 1;
    data.paths[place] = above ? `${data.paths[above]}/${action[place]}` : `${action[place]}`;
    data.places.set(data.paths[place], place);
  }
  const [low, high] = data.range.map((bound) => bound ?? data.nodes.value[0]);
  // Two players: each one's good is the other's bad, so that the middle is 0.
  const most = Math.max(Math.abs(low), Math.abs(high));
  data.range = data.nodes.view ? [-most, most] : [low, high];
  data.digits = digitsFor(most);
  if (cache.size >= CACHED_MOVES) cache.delete(cache.keys().next().value);
  cache.set(move, data);
  return data;
}

// A new element; strings among the children become text, never markup.
function element(kind, attributes = {}, ...children) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") made.className = value;
    else if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function shape(kind, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// ---------------------------------------------------------------- words and numbers

const actionName = (action) => episode.actions[action] ?? String(action);
const edgeName = (parent, action, label) =>
  label ? label : tree.nodes.chance?.[parent] ? `outcome ${action}` : actionName(action);
const nodeName = (place) =>
  place ? edgeName(tree.nodes.parent[place], tree.nodes.action[place], tree.nodes.label?.[place]) : "root";
const digitsFor = (size) => size >= 1000 ? 0 : size >= 100 ? 1 : size >= 10 ? 2 : 3;
const count = (many, what) => `${many} ${what}${many === 1 ? "" : "s"}`;
const percent = (share) => share === null ? "–" : `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;

// As short as it can be read; `digits` behind the point where the numbers of a column should stand in line.
function number(value, digits = null) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const text = size >= 1e7 ? value.toExponential(2)
    : digits !== null ? value.toFixed(digits)
    : Number.isInteger(value) ? String(value)
    : size < 0.001 ? value.toExponential(1)
    : value.toFixed(digitsFor(size));
  return /^-0(\.0*)?$/.test(text) ? text.slice(1) : text.replace("-", "−");
}

// ---------------------------------------------------------------- colours

// Q as the root's player sees it: 0 at the tree's lowest, 1 at its highest. Differences that the search takes for noise
// are narrow here too.
function quality(place) {
  const { q, parent } = tree.nodes;
  if (place === 0 || q[place] === null) return null;
  const [low, high] = tree.range;
  const width = Math.max(high - low, episode.minimumRange);
  const share = 0.5 + (tree.views[parent[place]] * q[place] - (low + high) / 2) / width;
  return Math.min(Math.max(share, 0), 1);
}

function colour(share) {
  if (share === null) return "var(--prior)";
  const [from, part] = share < 0.5 ? ["--low", 1 - 2 * share] : ["--high", 2 * share - 1];
  return `color-mix(in oklab, var(${from}) ${Math.round(100 * part)}%, var(--middle))`;
}
