// The patching map and what one of its patches changes: heat maps on canvas, reachable by pointer and by keyboard.
const lab = globalThis.conceptlab;
const { widget, palette, ink, number, onTheme, sized, select, saveCsv } = lab;

const LEFT = 38;
const HEAD = 64; // for the tokens above
const visible = (text) => [...text].map((c) => (/[\p{Cc}\p{Cf}]/u.test(c) ? `\\u${c.codePointAt(0).toString(16).padStart(4, "0")}` : c)).join("");
const short = (text, most = 12) => (visible(text).length > most ? `${visible(text).slice(0, most - 1)}…` : visible(text));

// A heat map in `place`: rows from the last layer down; gives { draw(values), drawing(), pick(cell), choose(cell), end() }.
function heat(place, { layers, across, label, scale, colours, marked, told, picked }) {
  const canvas = document.createElement("canvas");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", label);
  canvas.textContent = label;
  place.replaceChildren(canvas);
  let values = [];
  let cursor = null;
  let chosen = null;
  let size = { w: 20, h: 20 };
  const [low, high] = scale;

  function draw(next = values) {
    values = next;
    const wide = Math.max(220, place.clientWidth);
    size = { w: Math.max(7, Math.min(64, Math.floor((wide - LEFT - 46) / across.length))), h: layers.length > 30 ? 11 : 22 };
    paint(sized(canvas, ...extent()));
  }
  const extent = () => [LEFT + size.w * across.length + 46, HEAD + size.h * layers.length + 4];
  function paint(context) {
    context.clearRect(0, 0, ...extent());
    const table = palette(colours);
    const empty = ink("--soft");
    for (const [i, row] of values.entries()) {
      for (const [j, value] of row.entries()) {
        context.fillStyle = empty;
        if (typeof value === "number") {
          const at = 3 * Math.round(255 * Math.min(1, Math.max(0, (value - low) / (high - low))));
          context.fillStyle = `rgb(${table[at]} ${table[at + 1]} ${table[at + 2]})`;
        }
        const [x, y] = corner(i, j);
        context.fillRect(x, y, size.w - 1, size.h - 1);
        if (marked?.(i, j)) outline(context, x, y, ink("--ink"), 1.5);
      }
    }
    words(context);
    for (const [cell, colour] of [[chosen, ink("--accent")], [document.activeElement === canvas ? cursor : null, ink("--ink")]]) {
      if (cell) outline(context, ...corner(...cell), colour, 2.5);
    }
  }
  const corner = (i, j) => [LEFT + j * size.w, HEAD + (layers.length - 1 - i) * size.h];
  function outline(context, x, y, colour, width) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.strokeRect(x + width / 2 - 0.5, y + width / 2 - 0.5, size.w - width, size.h - width);
  }
  function words(context) {
    context.font = `11px ${ink("--sans")}`;
    context.fillStyle = ink("--quiet");
    context.textBaseline = "middle";
    context.textAlign = "right";
    const every = Math.ceil(13 / size.h);
    layers.forEach((layer, i) => i % every === 0 && context.fillText(`L${layer}`, LEFT - 7, corner(i, 0)[1] + size.h / 2));
    context.textAlign = "left";
    const each = Math.ceil(12 / size.w);
    across.forEach((column, j) => {
      if (j % each) return;
      context.save();
      context.translate(corner(0, j)[0] + size.w / 2, HEAD - 7);
      context.rotate(-Math.PI / 4);
      context.fillStyle = column.other === null ? ink("--quiet") : ink("--accent");
      context.fillText(short(column.text), 0, 0);
      context.restore();
    });
  }
  function under(event) {
    const box = canvas.getBoundingClientRect();
    const [j, i] = [Math.floor((event.clientX - box.left - LEFT) / size.w), layers.length - 1 - Math.floor((event.clientY - box.top - HEAD) / size.h)];
    return i >= 0 && i < layers.length && j >= 0 && j < across.length ? [i, j] : null;
  }
  const tell = (cell) => cell && told(...cell, values[cell[0]][cell[1]]);
  canvas.addEventListener("pointermove", (event) => tell(under(event)));
  canvas.addEventListener("click", (event) => {
    const cell = under(event);
    if (cell) pick(cell);
  });
  function pick(cell) {
    if (!picked) return;
    chosen = cursor = cell;
    draw();
    picked(...cell);
  }
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (event.key === "Enter" && cursor) return pick(cursor);
    if (!step) return;
    event.preventDefault();
    const [i, j] = cursor ?? [0, 0];
    cursor = [Math.min(layers.length - 1, Math.max(0, i + step[0])), Math.min(across.length - 1, Math.max(0, j + step[1]))];
    draw();
    tell(cursor);
  });
  for (const name of ["focus", "blur"]) canvas.addEventListener(name, () => draw());
  const resized = new ResizeObserver(() => draw());
  resized.observe(place);
  const away = onTheme(() => draw());
  return {
    drawing: () => ({ width: extent()[0], height: extent()[1], paint }),
    draw,
    pick,
    choose: (cell) => (chosen = cell),
    end: () => {
      resized.disconnect();
      away();
    },
  };
}

function ramp(place, colours, low, high, words) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: 120, height: 10 });
  const context = canvas.getContext("2d");
  const paint = () => {
    const table = palette(colours);
    for (let x = 0; x < 120; x += 1) {
      const at = 3 * Math.round((255 * x) / 119);
      context.fillStyle = `rgb(${table[at]} ${table[at + 1]} ${table[at + 2]})`;
      context.fillRect(x, 0, 1, 10);
    }
  };
  paint();
  const word = (text) => Object.assign(document.createElement("span"), { className: "small", textContent: text });
  place.replaceChildren(word(low), canvas, word(`${high} ${words}`));
  return onTheme(paint);
}

// -- the form ----------------------------------------------------------------------------------------------------------
widget("patching", (root) => {
  const form = root.querySelector("form");
  const tasks = JSON.parse(root.querySelector('[data-role="tasks"]').textContent);
  const names = ["prompt", "corrupted", "answer", "distractor"];
  function fill() {
    const row = tasks[form.elements.task.value];
    if (row) names.forEach((name, i) => (form.elements[name].value = row[i]));
    link();
  }
  function link() {
    const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
    const circuit = root.querySelector('[data-role="circuit"]');
    circuit.dataset.own = `/circuit?${query}`;
    circuit.setAttribute("href", circuit.dataset.own);
  }
  form.elements.task.addEventListener("change", fill);
  form.addEventListener("input", (event) => {
    if (names.includes(event.target.name)) form.elements.task.value = "";
    link();
  });
  form.addEventListener("submit", () => select({ ...Object.fromEntries(new FormData(form)), cell: null }));
  if (names.every((name) => !form.elements[name].value) && !form.elements.task.value && Object.keys(tasks).length) {
    form.elements.task.value = Object.keys(tasks)[0];
    fill();
  } else if (form.elements.task.value) fill();
  link();
});

// -- the map -----------------------------------------------------------------------------------------------------------
widget("patching-map", (root) => {
  const role = (name) => root.querySelector(`[data-role="${name}"]`);
  const map = JSON.parse(role("map").textContent);
  const most = Math.max(0.05, ...map.score.flat().map((v) => Math.abs(v ?? 0)));
  const name = (i, j) => `L${map.layers[i]}, ${map.by === "head" ? `head ${j}` : `token ${j} ${JSON.stringify(visible(map.across[j].text))}`}`;
  const grid = heat(role("cells"), {
    layers: map.layers,
    across: map.across,
    label: "effect of patching each place, by layer and token or head; arrow keys move, Enter follows the patch downstream",
    scale: [-most, most],
    colours: "diverging",
    marked: (i, j) => (map.q[i][j] ?? 1) <= 0.05 && Math.abs(map.score[i][j]) >= 0.01,
    told: (i, j) => {
      const [low, high] = [map.low[i][j], map.high[i][j]].map(number);
      role("said").textContent = `${name(i, j)}: effect ${number(map.score[i][j])}${map.n > 1 ? ` [${low}, ${high}]` : ""}, random change ${number(map.control[i][j])}, q ${number(map.q[i][j])}`;
    },
    picked: (i, j) => {
      select({ cell: `${map.layers[i]}.${j}` });
      const url = `${root.dataset.downstream}&cell=${map.layers[i]}.${j}`;
      globalThis.htmx?.ajax("GET", url, { target: role("downstream"), swap: "innerHTML" });
    },
  });
  const away = ramp(role("scale"), "diverging", number(-most), number(most), "of the whole difference");
  grid.draw(map.score);
  for (const button of root.querySelectorAll("[data-show]")) {
    button.addEventListener("click", () => {
      for (const other of root.querySelectorAll("[data-show]")) other.setAttribute("aria-pressed", String(other === button));
      grid.draw(map[button.dataset.show]);
    });
  }
  root.querySelector('[data-export="png"]').addEventListener("click", () => lab.savePicture("patching", grid.drawing()));
  root.querySelector('[data-export="svg"]').addEventListener("click", () => lab.saveVectors("patching", grid.drawing()));
  root.querySelector('[data-export="csv"]').addEventListener("click", () => {
    const columns = ["score", "low", "high", "control", "p", "q"];
    const rows = map.layers.flatMap((layer, i) => map.across.map((column, j) => [layer, j, column.text, ...columns.map((c) => map[c][i][j])]));
    saveCsv("patching", ["layer", map.by === "head" ? "head" : "token", "text", ...columns], rows);
  });
  if (/^\d+\.\d+$/.test(root.dataset.cell)) {
    const [layer, j] = root.dataset.cell.split(".").map(Number);
    const i = map.layers.indexOf(layer);
    if (i >= 0 && j < map.across.length) grid.pick([i, j]);
  }
  return () => {
    grid.end();
    away();
  };
});

// -- one patch downstream -------------------------------------------------------------------------------------------------
widget("patching-cell", (root) => {
  const role = (name) => root.querySelector(`[data-role="${name}"]`);
  const cell = JSON.parse(role("cell").textContent);
  const grids = ["moved", "control"].map((which) => {
    const grid = heat(role(which), {
      layers: cell.layers,
      across: cell.across,
      label: which === "moved" ? "change of the stream downstream of the patch" : "the same for a random patch",
      scale: [0, 1],
      colours: "heat",
      told: (i, j) => {
        role("said").textContent = `after block ${cell.layers[i]}, token ${j} ${JSON.stringify(visible(cell.across[j].text))}: moved ${number(cell.moved[i][j])} of the way, random patch ${number(cell.control[i][j])}`;
      },
    });
    if (cell.by !== "head") grid.choose([cell.layers.indexOf(cell.layer), cell.at]);
    grid.draw(cell[which]);
    return grid;
  });
  const away = ramp(role("scale"), "heat", "0", "1", "of the way to the other prompt");
  return () => {
    for (const grid of grids) grid.end();
    away();
  };
});
