// The tree at a glance, and the curve over the moves.

const THINNEST = 1; // pixels of a block that can be seen
const THINNEST_FRAMED = 5; // and of one that a frame would not hide
const CURVE_HEIGHT = 62;
const THUMB = 9; // half a slider's thumb, so that the curve stands above it

// A node is as wide as its share of the visits; what its own evaluation took is the gap at the right of its children.
function drawOverview() {
  const picture = byId("overview");
  const width = picture.clientWidth || 600;
  const levels = Math.max(...tree.levels) + 1;
  const height = Math.max(6, Math.min(22, Math.floor(300 / levels)));
  picture.setAttribute("viewBox", `0 0 ${width} ${levels * height}`);
  picture.style.height = `${levels * height}px`;
  const { n, q } = tree.nodes;
  const blocks = [], labels = [], waiting = [[0, 0, width]];
  while (waiting.length) {
    const [place, left, room] = waiting.pop();
    const y = tree.levels[place] * height;
    const name = nodeName(place);
    const block = shape("rect", { x: left.toFixed(2), y, width: room.toFixed(2), height, rx: 2, "data-place": place });
    block.style.fill = colour(quality(place));
    blocks.push(block);
    if (room >= THINNEST_FRAMED) {
      const title = shape("title", {});
      title.textContent = `${name}: N ${n[place]}` + (place ? `, Q ${number(q[place])}` : "");
      block.append(title);
    } else block.classList.add("thin");
    if (height >= 14 && room > 7 * name.length + 8) {
      const label = shape("text", { x: left + 5, y: y + height / 2 + 4 });
      label.textContent = name;
      labels.push(label);
    }
    let at = left;
    for (const child of tree.children[place]) {
      const part = room * n[child] / Math.max(n[place], 1);
      if (part < THINNEST) break; // its siblings are no wider
      waiting.push([child, at, part]);
      at += part;
    }
  }
  picture.replaceChildren(...blocks, ...labels);
  byId("low").textContent = number(tree.range[0], tree.digits);
  byId("high").textContent = number(tree.range[1], tree.digits);
}

function markBlock(place) {
  const picture = byId("overview");
  picture.querySelector(".selected")?.classList.remove("selected");
  const block = picture.querySelector(`[data-place="${place}"]`);
  if (!block) return;
  block.classList.add("selected");
  picture.insertBefore(block, picture.querySelector("text")); // in front of its neighbours, behind the labels
}

const across = (move, width) => THUMB + (width - 2 * THUMB) * (moves.length > 1 ? move / (moves.length - 1) : 0.5);
const moveAt = (x, width) => Math.round((x - THUMB) / Math.max(width - 2 * THUMB, 1) * (moves.length - 1));

function drawCurve() {
  const curve = byId("curve");
  const width = curve.clientWidth || 600;
  curve.setAttribute("viewBox", `0 0 ${width} ${CURVE_HEIGHT}`);
  const values = moves.map((move) => move.value).filter((value) => value !== null);
  const low = Math.min(...values), high = Math.max(...values);
  curve.heightOf = (value) => high > low ? 46 - 40 * (value - low) / (high - low) : 26;
  const largest = Math.max(...moves.map((move) => Math.abs(move.reward ?? 0)));
  const thickness = Math.min(2, Math.max(0.5, width / moves.length / 2));
  const ticks = moves.flatMap((move, i) => {
    if (!move.reward) return [];
    const size = 3 + 8 * Math.abs(move.reward) / largest, x = across(i, width);
    const line = shape("line", { class: move.reward > 0 ? "up" : "down", x1: x, x2: x, y1: CURVE_HEIGHT - 1, y2: CURVE_HEIGHT - 1 - size });
    line.style.strokeWidth = thickness;
    return [line];
  });
  const points = moves.flatMap((move, i) =>
    move.value === null ? [] : [`${across(i, width).toFixed(1)},${curve.heightOf(move.value).toFixed(1)}`]);
  curve.replaceChildren(...ticks, shape("polyline", { class: "value", points: points.join(" ") }),
    shape("line", { class: "now", y1: 0, y2: CURVE_HEIGHT }), shape("circle", { class: "dot", r: 4.5 }));
  const digits = digitsFor(Math.max(Math.abs(low), Math.abs(high)));
  byId("bounds").textContent = `value from ${number(low, digits)} to ${number(high, digits)}`;
}

function drawNow() {
  const curve = byId("curve");
  const x = across(state.move, curve.clientWidth || 600);
  const now = curve.querySelector(".now"), dot = curve.querySelector(".dot");
  now.setAttribute("x1", x);
  now.setAttribute("x2", x);
  dot.setAttribute("cx", x);
  dot.setAttribute("cy", curve.heightOf(moves[state.move].value ?? 0));
}
