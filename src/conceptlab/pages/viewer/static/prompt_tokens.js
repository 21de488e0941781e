// The Prompt page's frame: its form, panels that follow the selection, and the tokens coloured by a concept.
const lab = globalThis.conceptlab;

const dataOf = (element) => JSON.parse(element.querySelector("script.data").textContent);

// -- the form: target, distractor and concept act at once, a new prompt is a new page ------------------------------------
lab.widget("prompt-form", (form) => {
  const given = JSON.parse(form.querySelector(".form-data").textContent).prompt;
  form.dataset.prompt = given;
  const area = form.elements.prompt;
  area.value = given;
  const grow = () => {
    area.style.height = "auto";
    area.style.height = `${Math.min(area.scrollHeight + 2, 260)}px`;
  };
  grow();
  area.addEventListener("input", grow);
  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  for (const name of ["target", "distractor", "concept"]) {
    form.elements[name]?.addEventListener("change", (event) => lab.select({ [name]: event.target.value }));
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const query = new URLSearchParams(location.search);
    if (area.value !== given) query.delete("token");
    for (const name of ["prompt", "target", "distractor", "concept"]) {
      const value = form.elements[name]?.value;
      if (value) query.set(name, value);
      else query.delete(name);
    }
    const address = `${location.pathname}?${query}`;
    if (address !== location.pathname + location.search) location.assign(address);
  });
  return lab.onSelect((change) => {
    for (const name of ["target", "distractor", "concept"]) {
      const field = form.elements[name];
      if (field && name in change && field.value !== (change[name] ?? "")) field.value = change[name] ?? "";
    }
  });
});

const { chips, shade, tipFor, markToken, chosenToken, stripPicture } = lab;

lab.widget("prompt-tokens", async (root) => {
  const data = dataOf(root);
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const n = data.tokens.length;
  const strip = part("strip");
  const made = chips(strip, data.shown, (at) => lab.select({ token: at }));
  markToken(made, chosenToken(lab.selection(), n));
  const ends = [];
  if (!data.chosen) {
    ends.push(tipFor(strip, (i) => `token ${i}: ${data.shown[i]}\nid ${data.ids[i]}`));
    ends.push(lab.onSelect((change, selection) => "token" in change && markToken(made, chosenToken(selection, n))));
    return () => ends.forEach((end) => end());
  }
  const beside = chips(part("random"), data.shown, null);
  const [each, byLayer, random, bound] = await Promise.all(
    ["each", "by_layer", "random", "bound"].map((name) => lab.slice(data.arrays[name].url).then((found) => found.data)),
  );
  const layer = part("layer");
  const at = (values, i) => values[Number(layer.value) * n + i];
  const most = () => {
    let found = 1;
    for (let i = 0; i < n; i += 1) found = Math.max(found, Math.abs(at(byLayer, i)));
    return Math.min(found, 4);
  };
  const paint = () => {
    const colours = lab.palette("diverging");
    const top = most();
    for (let i = 0; i < n; i += 1) {
      for (const [chip, values] of [[made[i], byLayer], [beside[i], random]]) {
        const [ground, ink] = shade(colours, at(values, i), top);
        chip.style.background = ground;
        chip.style.color = ink;
      }
      made[i].classList.toggle("beyond", Math.abs(at(byLayer, i)) > at(bound, i));
    }
    lab.legend?.(root.querySelector(".legend"), "diverging", lab.number(-top), lab.number(top));
    part("layer-word").textContent = layer.value === String(data.chosen.at) ? `layer ${data.chosen.layer}` : `layer ${data.layers[layer.value]} (its direction is that of layer ${data.chosen.layer})`;
  };
  const fromSelection = (selection) => {
    const wanted = selection.layer === undefined ? data.chosen.at : Number(selection.layer) + 1;
    layer.value = String(wanted >= 0 && wanted < data.layers.length ? wanted : data.chosen.at);
  };
  fromSelection(lab.selection());
  paint();
  layer.addEventListener("change", () => (layer.value === "0" ? paint() : lab.select({ layer: Number(layer.value) - 1 })));
  const words = (i) =>
    `token ${i}: ${data.shown[i]}\n${data.chosen.name}: ${lab.number(at(byLayer, i))}\nrandom direction: ${lab.number(at(random, i))}, 95 % within ±${lab.number(at(bound, i))}`;
  ends.push(tipFor(strip, words), lab.onTheme(paint));
  ends.push(
    lab.onSelect((change, selection) => {
      if ("layer" in change) {
        fromSelection(selection);
        paint();
      }
      if ("token" in change) markToken(made, chosenToken(selection, n));
    }),
  );
  const rows = () => data.tokens.map((token, i) => [i, token, at(byLayer, i), at(random, i), at(bound, i)]);
  const columns = ["token", "text", data.chosen.name, "random direction", "95 % of random directions within"];
  const map = part("map");
  let grid = null;
  const drawMap = () => {
    if (grid || !map || !map.closest("details").open) return;
    grid = lab.grid(map, {
      rows: data.concepts.map((c) => c.name),
      cols: data.shown,
      scale: "diverging",
      value: (r, c) => Math.max(-1, Math.min(1, each[r * n + c] / 3)),
      tip: (r, c) => `${data.concepts[r].name} (layer ${data.concepts[r].layer})\ntoken ${c}: ${data.shown[c]}\n${lab.number(each[r * n + c])}`,
      pick: (r, c) => lab.select({ concept: data.concepts[r].id, token: c }),
      gutter: 150,
    });
    ends.push(grid.end);
  };
  map?.closest("details").addEventListener("toggle", drawMap);
  lab.tools(root, {
    name: "tokens",
    columns,
    rows,
    drawing: () => stripPicture(data.shown, (i) => shade(lab.palette("diverging"), at(byLayer, i), most())),
  });
  return () => ends.forEach((end) => end());
});
