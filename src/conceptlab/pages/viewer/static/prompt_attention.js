// Attention: all heads as small tiles, one head at full size, and one token's columns; arrow keys walk.
const lab = globalThis.conceptlab;
const KEPT = 6; // heads whose weights stay in the browser
const FONT = "12px Inter, system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif";

lab.widget("attention", async (root) => {
  const data = JSON.parse(root.querySelector("script.data").textContent);
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const n = data.tokens.length;
  const tiles = await lab.slice(data.arrays.tiles.url);
  const [nLayers, mostHeads, side] = tiles.shape;
  const state = { layer: 0, head: 0, token: n - 1, key: null, weighing: "plain", weights: null, norms: null, drawn: null };
  const held = new Map(); // "layer.head" -> {weights, norms}
  const ends = [];

  // -- all heads -------------------------------------------------------------------------------------------------------
  const heads = root.querySelector(".heads-canvas");
  const headsBox = root.querySelector(".heads-scroll");
  const GUTTER = 30;
  let sheet = null; // every tile, a pixel a cell
  const colourTiles = () => {
    const colours = lab.palette("heat");
    const image = new ImageData(mostHeads * side, nLayers * side);
    const to = new Uint32Array(image.data.buffer);
    const packed = new Uint32Array(256);
    for (let i = 0; i < 256; i += 1) packed[i] = 0xff000000 | (colours[3 * i + 2] << 16) | (colours[3 * i + 1] << 8) | colours[3 * i];
    for (let l = 0; l < nLayers; l += 1) {
      for (let h = 0; h < data.n_heads[l]; h += 1) {
        const from = (l * mostHeads + h) * side * side;
        for (let y = 0; y < side; y += 1) {
          const row = (l * side + y) * mostHeads * side + h * side;
          for (let x = 0; x < side; x += 1) to[row + x] = packed[tiles.data[from + y * side + x]];
        }
      }
    }
    sheet ??= document.createElement("canvas");
    sheet.width = mostHeads * side;
    sheet.height = nLayers * side;
    sheet.getContext("2d").putImageData(image, 0, 0);
  };
  const tileSize = () => {
    const room = (headsBox.clientWidth || 400) - GUTTER - 2;
    return Math.max(18, Math.min(64, Math.floor(room / mostHeads)));
  };
  const paintTiles = (context, size) => {
    const [width, height] = [GUTTER + mostHeads * size, 20 + nLayers * size];
    context.fillStyle = lab.ink("--card");
    context.fillRect(0, 0, width, height);
    context.font = FONT;
    context.textBaseline = "middle";
    context.imageSmoothingEnabled = side > size;
    for (let l = 0; l < nLayers; l += 1) {
      context.fillStyle = lab.ink(l === state.layer ? "--ink" : "--quiet");
      context.textAlign = "right";
      context.fillText(`${l}`, GUTTER - 8, 20 + (l + 0.5) * size);
      for (let h = 0; h < data.n_heads[l]; h += 1) {
        context.drawImage(sheet, h * side, l * side, side, side, GUTTER + h * size + 1, 20 + l * size + 1, size - 3, size - 3);
      }
    }
    context.textAlign = "center";
    const step = Math.ceil(18 / size);
    for (let h = 0; h < mostHeads; h += step) {
      context.fillStyle = lab.ink(h === state.head ? "--ink" : "--quiet");
      context.fillText(`${h}`, GUTTER + (h + 0.5) * size - 1, 10);
    }
    context.strokeStyle = lab.ink("--accent");
    context.lineWidth = 2.5;
    context.strokeRect(GUTTER + state.head * size - 0.5, 20 + state.layer * size - 0.5, size, size);
  };
  const drawTiles = () => {
    const size = tileSize();
    paintTiles(lab.sized(heads, GUTTER + mostHeads * size + 2, 20 + nLayers * size + 2), size);
    if (root.dataset.painted === undefined) root.dataset.painted = String(performance.now());
  };
  const headAt = (event) => {
    const at = heads.getBoundingClientRect();
    const h = Math.floor((event.clientX - at.left - GUTTER) / tileSize());
    const l = Math.floor((event.clientY - at.top - 20) / tileSize());
    return l >= 0 && l < nLayers && h >= 0 && h < data.n_heads[l] ? [l, h] : null;
  };
  heads.addEventListener("click", (event) => {
    const at = headAt(event);
    if (at) lab.select({ layer: at[0], head: at[1] });
  });
  heads.addEventListener("mousemove", (event) => {
    const at = headAt(event);
    heads.title = at ? `L${at[0]}.H${at[1]}` : "";
  });
  headsBox.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    const layer = Math.max(0, Math.min(nLayers - 1, state.layer + step[0]));
    const head = Math.max(0, Math.min(data.n_heads[layer] - 1, state.head + step[1]));
    if (data.n_heads[layer]) lab.select({ layer, head });
  });

  // -- one head at full size ---------------------------------------------------------------------------------------------
  const matrix = root.querySelector(".matrix-canvas");
  const matrixBox = root.querySelector(".matrix");
  const small = n <= 40;
  const said = part("said");
  const weight = (q, k) => {
    const plain = state.weights[q * n + k] / 65535;
    return state.weighing === "value" && state.norms ? plain * state.norms[k] : plain;
  };
  // Colours of all 65,536 weights, so that a million cells are a look-up each.
  let shades = null;
  const makeShades = () => {
    const colours = lab.palette("heat");
    shades = new Uint32Array(65536);
    for (let i = 0; i < 65536; i += 1) {
      const at = 3 * Math.round(255 * Math.sqrt(i / 65535));
      shades[i] = 0xff000000 | (colours[at + 2] << 16) | (colours[at + 1] << 8) | colours[at];
    }
  };
  // Where there are more tokens than pixels, a pixel shows the strongest weight that falls on it, so that none is lost.
  const colourHead = () => {
    if (!shades) makeShades();
    const side = Math.min(n, Math.max(200, Math.floor(frame().size * (window.devicePixelRatio || 1))));
    const pixel = Uint32Array.from({ length: n }, (_, i) => Math.floor((i * side) / n));
    const pooled = new Uint16Array(side * side);
    const weights = state.weights;
    let share = null;
    state.most = 1;
    if (state.weighing === "value" && state.norms) {
      let top = 0;
      for (let i = 0, k = 0; i < weights.length; i += 1) {
        const found = weights[i] * state.norms[k];
        if (found > top) top = found;
        if (++k === n) k = 0;
      }
      state.most = Math.max(top / 65535, 1e-12);
      share = Float32Array.from(state.norms, (norm) => norm / state.most);
    }
    for (let q = 0, i = 0; q < n; q += 1) {
      const row = pixel[q] * side;
      for (let k = 0; k < n; k += 1, i += 1) {
        const found = share ? (weights[i] * share[k]) | 0 : weights[i];
        const at = row + pixel[k];
        if (found > pooled[at]) pooled[at] = found;
      }
    }
    const image = new ImageData(side, side);
    const to = new Uint32Array(image.data.buffer);
    for (let i = 0; i < to.length; i += 1) to[i] = shades[pooled[i]];
    state.drawn ??= document.createElement("canvas");
    state.drawn.width = state.drawn.height = side;
    state.drawn.getContext("2d").putImageData(image, 0, 0);
    lab.legend(root.querySelector(".legend"), "heat", "0", lab.number(state.most), "square-root scale");
  };
  const frame = () => {
    const label = small ? Math.min(96, 14 + 7 * Math.max(...data.shown.map((t) => Math.min(t.length, 12)))) : 34;
    const room = Math.max(160, (matrixBox.clientWidth || 400) - label - 6);
    const cell = small ? Math.max(9, Math.min(44, Math.floor(room / n))) : Math.min(room, 720) / n;
    return { label, top: small && cell >= 13 ? label : 8, cell, size: cell * n };
  };
  const paintMatrix = (context, at) => {
    const { label, top, cell, size } = at;
    context.fillStyle = lab.ink("--card");
    context.fillRect(0, 0, label + size + 6, top + size + 22);
    if (!state.drawn) return;
    context.imageSmoothingEnabled = false;
    context.drawImage(state.drawn, label, top, size, size);
    context.font = FONT;
    context.textBaseline = "middle";
    if (small) {
      context.fillStyle = lab.ink("--card");
      for (let i = 0; i <= n; i += 1) {
        context.fillRect(label + i * cell - 0.5, top, 1, size);
        context.fillRect(label, top + i * cell - 0.5, size, 1);
      }
    }
    for (let i = 0; i < n; i += small ? 1 : Math.ceil(n / 8 / 10) * 10) {
      context.fillStyle = lab.ink(i === state.token ? "--ink" : "--quiet");
      context.textAlign = "right";
      if (!small || cell >= 11) context.fillText(small ? lab.cutText(context, data.shown[i], label - 10) : `${i}`, label - 6, top + (i + 0.5) * cell);
      if (small && cell >= 13) {
        context.save();
        context.translate(label + (i + 0.5) * cell, top - 6);
        context.rotate(-Math.PI / 2);
        context.textAlign = "left";
        context.fillText(lab.cutText(context, data.shown[i], label - 10), 0, 0);
        context.restore();
      } else if (!small) {
        context.textAlign = "left";
        context.fillText(`${i}`, label + i * cell, top + size + 12);
      }
    }
    context.strokeStyle = lab.ink("--accent");
    context.lineWidth = 1.5;
    context.strokeRect(label - 0.5, top + state.token * cell - 0.5, size + 1, Math.max(cell, 2) + 1);
    if (state.key !== null) {
      context.strokeStyle = lab.ink("--ink");
      context.strokeRect(label + state.key * cell - 0.5, top + state.token * cell - 0.5, Math.max(cell, 3) + 1, Math.max(cell, 3) + 1);
    }
  };
  const drawMatrix = () => {
    const at = frame();
    paintMatrix(lab.sized(matrix, at.label + at.size + 6, at.top + at.size + 22), at);
  };
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);
  ends.push(() => tip.remove());
  const words = (q, k) => {
    const plain = state.weights[q * n + k] / 65535;
    const norm = state.norms ? `\nlength of the value ${lab.number(state.norms[k])}, product ${lab.number(plain * state.norms[k])}` : "";
    return `query ${q}: ${data.shown[q]}\nkey ${k}: ${data.shown[k]}\nweight ${plain.toFixed(4)}${norm}`;
  };
  const pairAt = (event) => {
    if (!state.weights) return null;
    const at = matrix.getBoundingClientRect();
    const { label, top, cell } = frame();
    const k = Math.floor((event.clientX - at.left - label) / cell);
    const q = Math.floor((event.clientY - at.top - top) / cell);
    return q >= 0 && q < n && k >= 0 && k < n ? [q, k] : null;
  };
  matrix.addEventListener("mousemove", (event) => {
    const at = pairAt(event);
    tip.hidden = !at;
    if (!at) return;
    tip.textContent = words(...at);
    lab.placeTip(tip, event.clientX, event.clientY);
  });
  matrix.addEventListener("mouseleave", () => (tip.hidden = true));
  matrix.addEventListener("click", (event) => {
    const at = pairAt(event);
    if (!at) return;
    state.key = at[1];
    lab.select({ token: at[0] });
    drawMatrix();
  });
  matrixBox.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    if (!step || !state.weights) return;
    event.preventDefault();
    state.key = Math.max(0, Math.min(n - 1, (state.key ?? state.token) + step[1]));
    const token = Math.max(0, Math.min(n - 1, state.token + step[0]));
    if (token !== state.token) lab.select({ token });
    else drawMatrix();
    said.textContent = words(token, state.key);
  });

  // -- one token: what it reads above the line, who reads it below -------------------------------------------------------
  const flow = root.querySelector(".flow-canvas");
  const flowBox = part("flow");
  const WIDE = () => Math.max(n > 60 ? (flowBox.clientWidth - 2) / n : 46, n > 60 ? 2 : 46);
  const HIGH = 54;
  const paintFlow = (context, wide) => {
    const words = wide >= 30;
    const middle = HIGH + (words ? 26 : 6);
    const whole = middle + (words ? 0 : 6) + HIGH;
    context.fillStyle = lab.ink("--card");
    context.fillRect(0, 0, wide * n + 2, whole);
    if (!state.weights) return;
    let top = 1e-9;
    for (let i = 0; i < n; i += 1) top = Math.max(top, weight(state.token, i), weight(i, state.token));
    context.font = FONT;
    context.textBaseline = "middle";
    context.textAlign = "center";
    for (let i = 0; i < n; i += 1) {
      const from = (HIGH * weight(state.token, i)) / top;
      const to = (HIGH * weight(i, state.token)) / top;
      const [x, w] = [i * wide + (wide > 4 ? 1 : 0), Math.max(1, wide - (wide > 4 ? 2 : 0))];
      context.fillStyle = lab.ink("--accent");
      context.fillRect(x, HIGH - from, w, from);
      context.fillStyle = lab.ink("--flow-to");
      context.fillRect(x, middle, w, to);
      if (words) {
        context.fillStyle = lab.ink(i === state.token ? "--ink" : "--quiet");
        context.font = i === state.token ? `600 ${FONT}` : FONT;
        context.fillText(lab.cutText(context, data.shown[i], wide - 4), x + w / 2, HIGH + 13);
      } else if (i === state.token) {
        context.fillStyle = lab.ink("--ink");
        context.fillRect(x, HIGH + 1, Math.max(w, 3), 4 + 5);
      }
    }
  };
  const drawFlow = () => {
    const wide = WIDE();
    paintFlow(lab.sized(flow, Math.max(40, wide * n + 2), 2 * HIGH + (wide >= 30 ? 26 : 12)), wide);
    part("token-name").textContent = `${data.shown[state.token]} (token ${state.token})`;
  };
  const tokenAt = (event) => {
    const i = Math.floor((event.clientX - flow.getBoundingClientRect().left) / WIDE());
    return i >= 0 && i < n ? i : null;
  };
  flow.addEventListener("click", (event) => {
    const i = tokenAt(event);
    if (i !== null) lab.select({ token: i });
  });
  flow.addEventListener("mousemove", (event) => {
    const i = tokenAt(event);
    tip.hidden = i === null || !state.weights;
    if (tip.hidden) return;
    tip.textContent = `token ${i}: ${data.shown[i]}\n${data.shown[state.token]} reads it: ${lab.number(weight(state.token, i))}\nit reads ${data.shown[state.token]}: ${lab.number(weight(i, state.token))}`;
    lab.placeTip(tip, event.clientX, event.clientY);
  });
  flow.addEventListener("mouseleave", () => (tip.hidden = true));
  flowBox.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    lab.select({ token: Math.max(0, Math.min(n - 1, state.token + step)) });
  });

  // -- what is chosen ------------------------------------------------------------------------------------------------------
  const offline = Boolean(document.documentElement.dataset.offline);
  const headUrl = (layer, head, name) => {
    if (layer === data.first.layer && head === data.first.head) return data.first[name];
    const query = new URLSearchParams({ prompt: data.prompt, layer, head, as: "slice", name });
    return `/panel/head?${query}`;
  };
  let stop = new AbortController();
  async function load() {
    const [layer, head] = [state.layer, state.head];
    const link = part("head-link");
    link.textContent = `L${layer}.H${head}`;
    link.dataset.own = `/unit?layer=${layer}&head=${head}`;
    link.setAttribute("href", link.dataset.own);
    const key = `${layer}.${head}`;
    stop.abort();
    if (offline && key !== `${data.first.layer}.${data.first.head}`) {
      part("value-words").textContent = `This file holds the weights of L${data.first.layer}.H${data.first.head} alone; conceptlab view shows every head.`;
      return;
    }
    if (!held.has(key)) {
      stop = new AbortController();
      const options = { signal: stop.signal };
      matrixBox.setAttribute("aria-busy", "true");
      try {
        const weights = await lab.slice(headUrl(layer, head, "weights"), options);
        const norms = data.values ? await lab.slice(headUrl(layer, head, "value_norm"), options) : null;
        held.set(key, { weights: weights.data, norms: norms?.data ?? null });
      } catch (error) {
        if (error.name === "AbortError") return;
        part("value-words").textContent = error.message;
        return;
      } finally {
        matrixBox.removeAttribute("aria-busy");
      }
      if (held.size > KEPT) held.delete(held.keys().next().value);
    }
    if (layer !== state.layer || head !== state.head) return;
    Object.assign(state, held.get(key));
    root.dataset.head = key;
    show();
  }
  function show() {
    colourHead();
    drawMatrix();
    drawFlow();
    root.dataset.shown = `${state.layer}.${state.head}`;
  }
  const take = (selection) => {
    const layer = Number(selection.layer ?? data.first.layer);
    state.layer = layer >= 0 && layer < nLayers && data.n_heads[layer] ? layer : firstLayer;
    const head = Number(selection.head ?? data.first.head);
    state.head = head >= 0 && head < data.n_heads[state.layer] ? head : 0;
    state.token = lab.chosenToken(selection, n);
  };
  const weigh = (how) => {
    state.weighing = how;
    root.querySelectorAll("[data-weighing]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.weighing === how)));
  };
  const firstLayer = data.n_heads.findIndex((count) => count > 0);
  const valueButton = root.querySelector('[data-weighing="value"]');
  if (!data.values) {
    valueButton.disabled = true;
    part("value-words").textContent += ` ${data.no_values}`;
  }
  root.querySelectorAll("[data-weighing]").forEach((button) =>
    button.addEventListener("click", () => {
      weigh(button.dataset.weighing);
      lab.select({ weighing: state.weighing === "plain" ? null : state.weighing });
      if (state.weights) show();
    }),
  );
  if (lab.selection().weighing === "value" && data.values) weigh("value");
  take(lab.selection());
  colourTiles();
  drawTiles();
  drawFlow();
  load();
  const watch = new ResizeObserver(() => {
    drawTiles();
    if (state.weights && n > 200) colourHead();
    drawMatrix();
    drawFlow();
  });
  watch.observe(root);
  ends.push(
    () => watch.disconnect(),
    () => stop.abort(),
    lab.onTheme(() => {
      shades = null;
      colourTiles();
      drawTiles();
      if (state.weights) show();
    }),
    lab.onSelect((change, selection) => {
      const before = `${state.layer}.${state.head}`;
      take(selection);
      if (`${state.layer}.${state.head}` !== before) {
        state.key = null;
        drawTiles();
        load();
      } else if ("token" in change) {
        drawMatrix();
        drawFlow();
      }
    }),
  );
  const rows = () => {
    const made = [];
    for (let q = 0; q < n; q += 1) {
      for (let k = 0; k < n; k += 1) {
        if (state.weights[q * n + k]) made.push([q, data.tokens[q], k, data.tokens[k], state.weights[q * n + k] / 65535, state.norms?.[k] ?? ""]);
      }
    }
    return made;
  };
  lab.tools(root, {
    name: "attention",
    columns: ["query", "query token", "key", "key token", "weight", "length of value"],
    rows,
    drawing: () => {
      const at = frame();
      return { width: at.label + at.size + 6, height: at.top + at.size + 22, paint: (context) => paintMatrix(context, at) };
    },
  });
  return () => ends.forEach((end) => end());
});
