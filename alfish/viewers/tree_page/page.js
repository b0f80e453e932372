// What is shown, and what a hand does: moves, keys, clicks; then the beginning.

function drawPosition() {
  const move = moves[state.move];
  const picture = byId("picture");
  picture.hidden = !tree.picture;
  if (tree.picture) picture.src = `data:image/png;base64,${tree.picture}`;
  const facts = [
    ["plays", tree.plays],
    ["reward for it", number(move.reward)],
    ["reward so far", number(move.before)],
    ["value of the root", number(move.value)],
    ["network's value", number(tree.nodes.raw[0])],
    ["nodes, depth", `${tree.numNodes}, ${tree.depth}`],
  ];
  byId("numbers").replaceChildren(...facts.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]));
  byId("observation").textContent = tree.observation ? `sees ${tree.observation}` : "";
  byId("where").replaceChildren("move ", element("b", {}, String(move.number)), ` of ${moves.at(-1).number}`);
  byId("slider").value = state.move;
  byId("slider").setAttribute("aria-valuetext", `move ${move.number}, plays ${tree.plays}`);
}

function show(move) {
  state.move = Math.min(Math.max(move, 0), moves.length - 1);
  tree = load(state.move);
  if (!tree.places.has(state.selected)) state.selected = "";
  drawPosition();
  drawNow();
  drawOverview();
  drawTree();
  remember();
}

function select(path, scroll = false) {
  state.selected = tree.places.has(path) ? path : "";
  markSelected();
  if (scroll) rowAt(state.selected)?.scrollIntoView({ block: "nearest" });
  remember();
}

// The address says what is shown, so that it can be bookmarked and sent.
function remember() {
  const at = `#move=${moves[state.move].number}${state.selected ? `&node=${state.selected}` : ""}`;
  try {
    history.replaceState(null, "", at);
  } catch {
    // A page in a sandbox, or one that changes its address too often, keeps the old one.
  }
}

function recall() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const path = wanted.get("node") ?? "";
  if (/^\d+(\/\d+)*$/.test(path)) {
    reveal(path);
    state.selected = path;
  }
  return moves.findIndex((move) => String(move.number) === wanted.get("move"));
}

function play(on) {
  clearInterval(state.timer);
  state.timer = on ? setInterval(() => state.move + 1 < moves.length ? show(state.move + 1) : play(false), 350) : null;
  byId("play").textContent = on ? "stop" : "play";
}

function go(move) {
  play(false);
  show(move);
}

function walk(by) {
  const rows = [...byId("tree").querySelectorAll(".row[data-path]")];
  const at = rows.findIndex((row) => row.dataset.path === state.selected);
  select(rows[Math.min(Math.max(at + by, 0), rows.length - 1)].dataset.path, true);
}

function openBest() {
  let place = 0;
  while (tree.children[place].length) {
    state.open.add(tree.paths[place]);
    place = tree.children[place][0];
  }
  drawTree();
  select(tree.paths[place]);
}

function openOnly(paths) {
  state.open = new Set(paths);
  drawTree();
}

const KEYS = {
  ArrowLeft: () => go(state.move - 1),
  ArrowRight: () => go(state.move + 1),
  ArrowUp: () => walk(-1),
  ArrowDown: () => walk(1),
  Home: () => go(0),
  End: () => go(moves.length - 1),
  Enter: () => toggle(state.selected),
  b: openBest,
  p: () => play(!state.timer),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || (event.key === "Enter" && event.target.closest("button"))) return;
  const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act) return;
  event.preventDefault(); // the slider would move too, and the page would scroll
  act();
});

for (const [id, act] of Object.entries({
  first: KEYS.Home, previous: KEYS.ArrowLeft, play: KEYS.p, next: KEYS.ArrowRight, last: KEYS.End, best: openBest,
  all: () => openOnly(tree.paths), none: () => openOnly([""]),
})) byId(id).addEventListener("click", act);

byId("tree").addEventListener("click", (event) => {
  const row = event.target.closest(".row[data-path]");
  if (!row) return;
  const path = row.dataset.path;
  if (event.target.closest(".twist") || path === state.selected) toggle(path);
  select(path);
  byId("details").classList.add("up");
});

byId("overview").addEventListener("click", (event) => {
  const place = event.target.dataset.place;
  if (place === undefined) return;
  reveal(tree.paths[place]);
  drawTree();
  select(tree.paths[place], true);
  byId("details").classList.add("up");
});

byId("slider").addEventListener("input", (event) => go(Number(event.target.value)));

for (const kind of ["pointerdown", "pointermove"]) byId("curve").addEventListener(kind, (event) => {
  if (kind === "pointermove" && !(event.buttons & 1)) return;
  const box = byId("curve").getBoundingClientRect();
  go(moveAt(event.clientX - box.left, box.width));
});

byId("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

addEventListener("resize", () => {
  drawCurve();
  drawNow();
  drawOverview();
  markSelected();
});

addEventListener("hashchange", () => {
  const move = recall();
  go(move < 0 ? state.move : move);
});

byId("title").textContent = `${episode.title}: search trees`;
byId("facts").append(...episode.facts.map((text) => element("span", {}, text)));
byId("slider").max = moves.length - 1;
byId("head").append(element("div", { class: "name" }, "action"), ...COLUMNS.map(([key, name, meaning]) =>
  element("div", { class: `cell ${key}`, title: key === "score" ? episode.formulas.interior : meaning }, name)));
drawCurve();
show(recall());
