// The tree as rows, and all that is known of the selected one.

const UNVISITED_AT_ONCE = 4; // more of them wait behind one line
const ILLEGAL_NAMED = 30; // the others are counted

// A column: its number in the data, its name, and what it means.
const COLUMNS = [
  ["n", "N", "visits: simulations that went through this node"],
  ["q", "Q", "reward + discount × value: the mean return of this action, for who chooses it"],
  ["prior", "prior", "what the network, or noise at the root, gave this action before the search"],
  ["score", "score", ""], // the search's own rule, see formulaAt
  ["reward", "reward", "predicted for this action"],
  ["discount", "discount", "factor of all that follows; 0 ends the game, a negative one hands the move to the other player"],
  ["value", "value", "mean return from this node on, over its visits, for who moves there"],
  ["raw", "raw value", "the network's own value of this node, before any search below it"],
];

function formulaAt(parent) {
  if (tree.nodes.chance?.[parent]) return episode.formulas.chance;
  return parent === 0 ? episode.formulas.root : episode.formulas.interior;
}

function cell(kind, text, share = null) {
  const made = element("div", { class: `cell ${kind}` });
  if (share !== null) {
    const bar = element("i");
    bar.style.width = `${Math.max(100 * share, share > 0 ? 2 : 0)}%`;
    made.append(bar);
  }
  made.append(element("span", {}, text));
  return made;
}

function chips(place) {
  const { parent, action, discount, chance, player } = tree.nodes;
  const found = [];
  const chip = (kind, text, title) => found.push(element("span", { class: `chip ${kind}`, title }, text));
  if (parent[place] === 0 && action[place] === moves[state.move].action) chip("played", "played", "the action that was played");
  if (place && discount[place] === 0) chip("ends", "ends", "the game ends here: the discount is 0");
  if (chance?.[place]) chip("chance", "chance", "a chance node: nature chooses what follows");
  if (player) chip("", `P${player[place]}`, `player ${player[place]} moves here`);
  else if (tree.views[place] < 0) chip("", "opponent", "the other player moves here");
  return found;
}

function nodeRow(place) {
  const { parent, n, q, prior, score, reward, discount, value, raw } = tree.nodes;
  const opens = [tree.children[place].length, tree.unvisited[place], tree.illegal[place], tree.leftOut[place]].some(Boolean);
  const name = nodeName(place);
  const label = element("div", { class: "name" },
    element("span", { class: "twist" }, opens ? "▶" : ""), element("span", { class: "label", title: name }, name), ...chips(place));
  const row = element("div", { class: "row", role: "treeitem", "data-path": tree.paths[place], "aria-level": tree.levels[place] + 1 }, label);
  if (place === 0) {
    row.append(cell("n", String(n[0])), cell("q", ""), cell("prior", ""), cell("score", ""), cell("reward", ""), cell("discount", ""));
  } else {
    const quotient = cell("q", number(q[place], tree.digits));
    quotient.style.background = `color-mix(in oklab, ${colour(quality(place))} 55%, transparent)`;
    const digits = Number.isInteger(reward[place]) ? 0 : 3;
    const sign = reward[place] >= 0.0005 ? " plus" : reward[place] <= -0.0005 ? " minus" : "";
    row.append(cell("n", String(n[place]), n[place] / Math.max(n[parent[place]], 1)), quotient,
      cell("prior", percent(prior[place]), prior[place]), cell("score", number(score[place], 3)),
      cell(`reward${sign}`, number(reward[place], digits)), cell("discount", number(discount[place])));
  }
  row.append(cell("value", number(value[place], tree.digits)), cell("raw", number(raw[place], tree.digits)));
  return row;
}

function unvisitedRow(parent, [action, prior, score, label]) {
  return element("div", { class: "row unvisited", title: "no simulation took this action" }, element("div", { class: "name" },
    element("span", { class: "twist" }), element("span", { class: "label" }, edgeName(parent, action, label))),
    cell("n", "0"), cell("q", ""), cell("prior", percent(prior), prior), cell("score", number(score, 3)));
}

const note = (text) => element("div", { class: "row note" }, element("span", {}, text));

function fillGroup(group, place) {
  for (const child of tree.children[place]) group.append(branch(child));
  const edges = tree.unvisited[place] ?? [];
  const [more, mass] = tree.others[place] ?? [0, 0];
  const rows = () => {
    const made = edges.map((edge) => unvisitedRow(place, edge));
    if (more) made.push(note(`and ${more} more that were not visited, prior ${percent(mass)} together`));
    return made;
  };
  if (edges.length <= UNVISITED_AT_ONCE && !more) group.append(...rows());
  else {
    const sum = edges.reduce((total, edge) => total + edge[1], mass);
    const waiting = note(`▸ ${count(edges.length + more, "action")} not visited, prior ${percent(sum)} together`);
    waiting.classList.add("waiting");
    waiting.addEventListener("click", () => waiting.replaceWith(...rows()));
    group.append(waiting);
  }
  const illegal = tree.illegal[place];
  if (illegal) {
    const names = illegal.slice(0, ILLEGAL_NAMED).map(actionName).join(", ");
    group.append(note(`illegal: ${names}${illegal.length > ILLEGAL_NAMED ? ` and ${illegal.length - ILLEGAL_NAMED} more` : ""}`));
  }
  const leftOut = tree.leftOut[place];
  if (leftOut) group.append(note(`not on this page: ${count(leftOut[0], "action")} with ${count(leftOut[1], "visit")}`));
}

// A node's row and, where it is open, those below it. What is closed has no elements.
function branch(place) {
  const made = element("div", { class: "branch" }, nodeRow(place));
  if (state.open.has(tree.paths[place])) openBranch(made, place);
  return made;
}

function openBranch(made, place) {
  const group = element("div", { class: tree.levels[place] > 7 ? "deep group" : "group", role: "group" });
  fillGroup(group, place);
  if (!group.childNodes.length) return;
  made.classList.add("open");
  made.firstChild.setAttribute("aria-expanded", "true");
  made.append(group);
}

const rowAt = (path) => byId("tree").querySelector(`.row[data-path="${path}"]`);

function toggle(path) {
  const row = rowAt(path);
  if (!row) return;
  const made = row.parentNode;
  if (made.classList.contains("open")) {
    state.open.delete(path);
    made.classList.remove("open");
    row.setAttribute("aria-expanded", "false");
    made.lastChild.remove();
  } else {
    state.open.add(path);
    openBranch(made, tree.places.get(path));
  }
}

function drawTree() {
  byId("tree").replaceChildren(branch(0));
  markSelected();
}

// Opens all that is above a node.
function reveal(path) {
  state.open.add("");
  for (let end = path.indexOf("/"); end > 0; end = path.indexOf("/", end + 1)) state.open.add(path.slice(0, end));
}

function markSelected() {
  const place = tree.places.get(state.selected) ?? 0;
  for (const row of byId("tree").querySelectorAll(".selected")) row.classList.remove("selected");
  rowAt(state.selected)?.classList.add("selected");
  markBlock(place);
  drawDetails(place);
}

function drawDetails(place) {
  const { parent, q, reward, discount, value } = tree.nodes;
  const line = [];
  for (let at = place; at > 0; at = parent[at]) line.unshift(nodeName(at));
  const list = element("dl");
  for (const [key, name, meaning] of COLUMNS) {
    if (place === 0 && !["n", "value", "raw"].includes(key)) continue;
    const found = tree.nodes[key][place];
    list.append(element("dt", {}, name), element("dd", {}, key === "prior" ? percent(found) : number(found)),
      element("dd", { class: "explained" }, key === "score" ? formulaAt(parent[place]) : meaning));
  }
  const close = element("button", { type: "button", class: "close", "aria-label": "close" }, "✕");
  close.addEventListener("click", () => byId("details").classList.remove("up"));
  const sum = place === 0 ? [] : [element("p", {},
    `Q = ${number(reward[place])} + ${number(discount[place])} × ${number(value[place])} = ${number(q[place])}`)];
  byId("details").replaceChildren(close, element("h3", {}, line.length ? line.join(" → ") : "root"), list, ...sum);
}
