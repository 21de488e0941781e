// The logit lens: layers by tokens, coloured by probability, entropy or the rank of a token, with controls in grey at the end of a row.
const lab = globalThis.conceptlab;

lab.widget("lens", async (root) => {
  const data = JSON.parse(root.querySelector("script.data").textContent);
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const [nLayers, n] = [data.layers.length, data.tokens.length];
  const names = ["top_id", "top_prob", "entropy", "target", "target_prob", "target_rank"];
  const found = await Promise.all(names.map((name) => lab.slice(data.arrays[name].url)));
  const of = Object.fromEntries(names.map((name, i) => [name, found[i].data]));
  const k = found[0].shape[2];
  const word = (id) => data.shown_names[id];
  const first = (r, c) => of.top_id[(r * n + c) * k];
  const highest = Math.log(data.d_vocab);
  const stays = new Int32Array(n); // the first layer from which the first choice does not change
  for (let c = 0; c < n; c += 1) {
    let r = nLayers - 1;
    while (r > 0 && first(r - 1, c) === first(nLayers - 1, c)) r -= 1;
    stays[c] = r;
  }
  const rankWords = (rank) => (rank >= 1e6 ? `${(rank / 1e6).toFixed(1)}M` : rank >= 1e4 ? `${Math.round(rank / 1e3)}k` : `${Math.round(rank)}`);
  const MODES = {
    top_prob: {
      value: (r, c) => of.top_prob[(r * n + c) * k],
      side: (r) => lab.number(data.control.top_prob[r]),
      legend: ["0", "1", "probability of the first choice"],
      control: "In grey: the first choice's probability for random streams of the same length.",
    },
    entropy: {
      value: (r, c) => of.entropy[r * n + c] / highest,
      side: (r) => data.control.entropy[r].toFixed(2),
      legend: ["0", `${highest.toFixed(1)} nats`, "entropy"],
      control: "In grey: the entropy for random streams of the same length.",
    },
    target_rank: {
      value: (r, c) => 1 - Math.log(of.target_rank[r * n + c]) / highest,
      text: (r, c) => rankWords(of.target_rank[r * n + c]),
      side: (r) => rankWords(data.control.target_rank[r]),
      legend: [rankWords(data.d_vocab), "1", "rank"],
      control: "In grey: the mean rank of random tokens in the target's place.",
    },
  };
  const tokenWords = (r, c) => word(first(r, c));
  const targetWord = (c) => word(of.target[c]);
  const cell = (r, c) => {
    const top = [];
    for (let i = 0; i < k; i += 1) {
      const at = (r * n + c) * k + i;
      top.push(`${lab.number(of.top_prob[at])}  ${word(of.top_id[at])}`);
    }
    const rank = of.target_rank[r * n + c];
    return (
      `layer ${data.layers[r]} after token ${c}: ${data.shown[c]}\n${top.join("\n")}\n` +
      `entropy ${of.entropy[r * n + c].toFixed(3)} nats\n${targetWord(c)}: rank ${rank}, probability ${lab.number(of.target_prob[r * n + c])}`
    );
  };
  const place = (selection) => {
    const c = lab.chosenToken(selection, n);
    const layer = selection.layer === undefined || selection.layer === "" ? null : Number(selection.layer) + 1;
    return [layer !== null && layer < nLayers ? layer : nLayers - 1, c];
  };
  let mode = MODES[lab.selection().lens] ? lab.selection().lens : "top_prob";
  const grid = lab.grid(root, {
    rows: data.layers,
    cols: data.shown,
    upwards: true,
    sideWidth: 62,
    above: "control",
    cursor: place(lab.selection()),
    text: tokenWords,
    value: MODES.top_prob.value,
    side: MODES.top_prob.side,
    tip: cell,
    mark: (r, c) => r >= stays[c],
    pick: (r, c) => lab.select(r === 0 ? { token: c } : { token: c, layer: r - 1 }),
  });
  const zoom = part("zoom");
  zoom.setAttribute("aria-pressed", String(grid.fitted));
  zoom.addEventListener("click", () => {
    grid.fit(!grid.fitted);
    zoom.setAttribute("aria-pressed", String(grid.fitted));
  });
  const show = (name) => {
    mode = name;
    const own = MODES[name];
    root.querySelectorAll("[data-mode]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.mode === name)));
    grid.recolour({ value: own.value, side: own.side, text: own.text ?? tokenWords });
    part("control-words").textContent = own.control;
    lab.legend(root.querySelector(".legend"), "heat", ...own.legend);
  };
  root.querySelectorAll("[data-mode]").forEach((button) => button.addEventListener("click", () => {
    show(button.dataset.mode);
    lab.select({ lens: mode === "top_prob" ? null : mode });
  }));
  const detail = part("detail");
  const describe = () => {
    const [r, c] = grid.cursor;
    const lines = document.createElement("ol");
    lines.className = "top-list";
    for (let i = 0; i < k; i += 1) {
      const at = (r * n + c) * k + i;
      const line = document.createElement("li");
      const meter = document.createElement("span");
      meter.className = "meter";
      meter.style.width = `${Math.max(1, 100 * of.top_prob[at])}%`;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "token-pick";
      const inner = document.createElement("bdi");
      inner.textContent = word(of.top_id[at]);
      button.append(inner);
      button.title = "follow this token through the layers";
      button.addEventListener("click", () => lab.select({ target: `#${of.top_id[at]}` }));
      const number = document.createElement("span");
      number.className = "amount";
      number.textContent = lab.number(of.top_prob[at]);
      line.append(button, number, meter);
      lines.append(line);
    }
    const head = document.createElement("p");
    head.className = "small";
    const strong = document.createElement("bdi");
    strong.textContent = data.shown[c];
    head.append(`Layer ${data.layers[r]} after token ${c} `, strong, `, entropy ${of.entropy[r * n + c].toFixed(3)} nats; `);
    const target = document.createElement("bdi");
    target.textContent = targetWord(c);
    head.append(target, ` has rank ${of.target_rank[r * n + c]} and probability ${lab.number(of.target_prob[r * n + c])}. Choose a word to follow it.`);
    detail.replaceChildren(head, lines);
  };
  show(mode);
  describe();
  const ends = [
    lab.onTheme(() => show(mode)),
    lab.onSelect((change, selection) => {
      if (!("token" in change || "layer" in change)) return;
      const wanted = place(selection);
      if (grid.cursor?.[0] === 0 && grid.cursor[1] === wanted[1] && !("layer" in change)) return describe();
      grid.choose(wanted);
      describe();
    }),
  ];
  const columns = ["layer", "token", "text", "first choice", "probability", "entropy", "target", "target probability", "target rank"];
  const rows = () => {
    const made = [];
    for (let r = 0; r < nLayers; r += 1) {
      for (let c = 0; c < n; c += 1) {
        const at = r * n + c;
        made.push([data.layers[r], c, data.tokens[c], data.names[first(r, c)], of.top_prob[at * k], of.entropy[at], data.names[of.target[c]], of.target_prob[at], of.target_rank[at]]);
      }
    }
    return made;
  };
  lab.tools(root, { name: "lens", columns, rows, drawing: () => grid.picture() });
  return () => {
    grid.end();
    ends.forEach((end) => end());
  };
});
