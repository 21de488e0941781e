// Direct logit attribution: bars of layers, a map of heads, and the tokens that attention read, each beside its control.
const lab = globalThis.conceptlab;

lab.widget("contributions", async (root) => {
  const data = JSON.parse(root.querySelector("script.data").textContent);
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const ends = [];
  bars(part("bars"), data.layers);
  const holder = part("heads");
  let grid = null;
  let limit = 1;
  const legend = () => lab.legend(root.querySelector(".legend"), "diverging", lab.number(-limit), lab.number(limit));
  if (data.arrays.heads) {
    const [heads, control] = await Promise.all(["heads", "heads_control"].map((name) => lab.slice(data.arrays[name].url)));
    const [nLayers, nHeads] = heads.shape;
    limit = Math.max(1e-9, ...heads.data.filter(Number.isFinite).map(Math.abs));
    const at = (r, c) => heads.data[r * nHeads + c];
    const chosen = (selection) => {
      const layer = Number(selection.layer ?? NaN);
      const head = Number(selection.head ?? NaN);
      return layer < nLayers && head < nHeads ? [layer, head] : null;
    };
    grid = lab.grid(holder, {
      rows: Array.from({ length: nLayers }, (_, i) => `${i}`),
      cols: Array.from({ length: nHeads }, (_, i) => `${i}`),
      scale: "diverging",
      gutter: 34,
      wide: 44,
      fit: true,
      dots: true,
      cursor: chosen(lab.selection()),
      value: (r, c) => at(r, c) / limit,
      mark: (r, c) => Number.isFinite(at(r, c)) && Math.abs(at(r, c)) <= control.data[r * nHeads + c],
      tip: (r, c) => `L${r}.H${c}\n${lab.number(at(r, c))} logits\nrandom tokens: 95 % within ±${lab.number(control.data[r * nHeads + c])}`,
      pick: (r, c) => lab.select({ layer: r, head: c }),
    });
    legend();
    ends.push(grid.end, lab.onTheme(legend));
    ends.push(lab.onSelect((change, selection) => ("layer" in change || "head" in change) && grid.choose(chosen(selection))));
  } else {
    holder.textContent = "This model has no heads that can be told apart.";
    root.querySelector(".legend")?.remove();
  }
  let totals = null;
  const strip = part("sources");
  if (strip && data.arrays.sources) {
    const [sources, bound] = await Promise.all(["sources", "sources_control"].map((name) => lab.slice(data.arrays[name].url)));
    const [nLayers, n] = sources.shape;
    totals = new Float64Array(n);
    for (let r = 0; r < nLayers; r += 1) for (let c = 0; c < n; c += 1) totals[c] += sources.data[r * n + c];
    const most = Math.max(1e-9, ...Array.from(totals, Math.abs));
    const made = lab.chips(strip, data.shown.slice(0, n), (i) => lab.select({ token: i }));
    const paint = () => {
      const colours = lab.palette("diverging");
      made.forEach((chip, i) => {
        const [ground, ink] = lab.shade(colours, totals[i], most);
        chip.style.background = ground;
        chip.style.color = ink;
        chip.classList.toggle("beyond", Math.abs(totals[i]) > bound.data[i]);
      });
    };
    paint();
    lab.markToken(made, data.token);
    ends.push(lab.onTheme(paint));
    ends.push(lab.tipFor(strip, (i) => `token ${i}: ${data.shown[i]}\nattention brings ${lab.number(totals[i])} logits\nvalues in random order: 95 % within ±${lab.number(bound.data[i])}`));
  }
  const columns = ["component", "logits", "random tokens", "2.5 %", "97.5 %", "p", "q"];
  const rows = () => [
    ...data.components.map((c) => [c.component, c.score, c.control, c.control_low, c.control_high, c.p, c.q]),
    ...(totals ? Array.from(totals, (v, i) => [`from token ${i} ${data.tokens[i]}`, v]) : []),
  ];
  lab.tools(root, { name: "contributions", columns, rows, drawing: () => grid?.picture() ?? { width: 1, height: 1, paint: () => {} } });
  return () => ends.forEach((end) => end());
});

// Attention and MLP of every layer as bars to the left and right of nothing.
function bars(place, layers) {
  const most = Math.max(1e-9, ...layers.flatMap((l) => [l.attention, l.mlp, l.other].map(Math.abs)));
  const table = document.createElement("table");
  table.className = "bars";
  const head = table.createTHead().insertRow();
  for (const word of ["", "attention", "MLP"]) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = word;
    head.append(cell);
  }
  const body = table.createTBody();
  const bar = (row, value, span = 1) => {
    const cell = row.insertCell();
    cell.colSpan = span;
    const line = document.createElement("span");
    line.className = "bar-line";
    const fill = document.createElement("span");
    fill.className = `bar-fill ${value < 0 ? "down" : "up"}`; // blue adds, orange takes, as in the map of heads
    fill.style.width = `${(50 * Math.abs(value)) / most}%`;
    line.append(fill);
    const number = document.createElement("span");
    number.className = "amount";
    number.textContent = lab.number(value);
    cell.append(line, number);
  };
  for (const layer of [...layers].reverse()) {
    const row = body.insertRow();
    const name = document.createElement("th");
    name.scope = "row";
    name.textContent = layer.layer;
    row.append(name);
    if (/^\d+$/.test(layer.layer)) {
      bar(row, layer.attention);
      bar(row, layer.mlp + layer.other);
    } else bar(row, layer.other, 2);
  }
  place.replaceChildren(table);
}
