// The map of concepts x layers: canvas, only what is in sight is drawn; sorted, searched, read by pointer and keyboard, saved.
const { slice, widget, palette, ink, select, selection, onTheme, savePicture, saveVectors, saveCsv, sized, number } = globalThis.conceptlab;
const FONT = getComputedStyle(document.documentElement).getPropertyValue("--sans");
const HEAD = 30;
const GAP = 26;

widget("heat", async (root) => {
  const about = JSON.parse(root.querySelector("script").textContent);
  const box = root.querySelector(".heat-box");
  const canvas = box.querySelector("canvas");
  const space = box.querySelector(".heat-space");
  const form = root.closest("section")?.querySelector("[data-heat-form]");
  const { data, shape } = await slice(root.dataset.url);
  const [, n, depth] = shape;
  const at = (column, i, l) => data[(about.curves.indexOf(column) * n + i) * depth + l];
  const above = (i, l) => at("score", i, l) - at("control", i, l);
  let rows = [];
  let hover = null;
  let cursor = null;
  let lay = null;

  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);

  const state = () => {
    const read = form ? new FormData(form) : new Map();
    return { sort: read.get("sort") || "depth", find: (read.get("find") || "").toLowerCase(), show: read.get("show") || "above" };
  };

  // What colours stand for: 0 to the largest distance from the control, or the range of all scores and controls.
  const ranges = {};
  function range(show) {
    if (ranges[show]) return ranges[show];
    let low = show === "above" ? 0 : Infinity;
    let high = -Infinity;
    for (let i = 0; i < n; i += 1) {
      for (let l = 0; l < depth; l += 1) {
        const values = show === "above" ? [above(i, l)] : [at("score", i, l), at("control", i, l)];
        for (const value of values) {
          if (!Number.isFinite(value)) continue;
          low = show === "above" ? 0 : Math.min(low, value);
          high = Math.max(high, value);
        }
      }
    }
    if (!Number.isFinite(high)) [low, high] = [0, 1];
    low = Math.floor(low * 20) / 20;
    high = Math.max(Math.ceil(high * 20) / 20, low + 0.05);
    ranges[show] = [low, high];
    return ranges[show];
  }

  function layout(width) {
    const show = state().show;
    const row = rows.length <= 60 ? 26 : 20;
    const groups = show === "control" ? ["score", "control"] : ["above"];
    const label = width < 560 ? 108 : Math.min(220, Math.max(120, width * 0.18));
    const cell = (width - label - 12 - (groups.length - 1) * GAP) / (groups.length * depth);
    return { show, row, groups, label, cell, width, height: HEAD + rows.length * row + 4 };
  }
  const left = (group, l) => lay.label + group * (lay.cell * depth + GAP) + l * lay.cell;
  const values = { above, score: (i, l) => at("score", i, l), control: (i, l) => at("control", i, l) };

  function clipped(context, text, width) {
    if (context.measureText(text).width <= width) return text;
    let end = text.length;
    while (end > 1 && context.measureText(`${text.slice(0, end)}…`).width > width) end -= 1;
    return `${text.slice(0, end)}…`;
  }

  function paint(context, top, height) {
    const colours = palette("heat");
    const [low, high] = range(lay.show);
    const style = { ink: ink("--ink"), quiet: ink("--quiet"), card: ink("--card"), accent: ink("--accent"), soft: ink("--soft") };
    const current = selection();
    context.fillStyle = style.card;
    context.fillRect(0, 0, lay.width, height);
    const first = Math.max(0, Math.floor(top / lay.row));
    const last = Math.min(rows.length, Math.ceil((top + height - HEAD) / lay.row));
    context.save();
    context.beginPath();
    context.rect(0, HEAD, lay.width, height - HEAD);
    context.clip();
    for (let r = first; r < last; r += 1) {
      const i = rows[r];
      const concept = about.concepts[i];
      const y = HEAD + r * lay.row - top;
      const here = (hover && hover.r === r) || (cursor && cursor.r === r && document.activeElement === box);
      if (here) {
        context.fillStyle = style.soft;
        context.fillRect(0, y, lay.label, lay.row);
      }
      context.font = `${concept.found ? 600 : 400} 12.5px ${FONT}`;
      context.textBaseline = "middle";
      context.textAlign = "left";
      context.fillStyle = current.concept === concept.id ? style.accent : concept.found ? style.ink : style.quiet;
      context.fillText(clipped(context, concept.name, lay.label - 14), 6, y + lay.row / 2 + 0.5);
      lay.groups.forEach((group, g) => {
        context.globalAlpha = concept.found || group === "control" ? 1 : 0.42;
        const gapX = lay.cell > 7 ? 1 : 0;
        for (let l = 0; l < depth; l += 1) {
          const value = values[group](i, l);
          if (!Number.isFinite(value)) continue;
          const c = 3 * Math.round(255 * Math.min(1, Math.max(0, (value - low) / (high - low))));
          context.fillStyle = `rgb(${colours[c]},${colours[c + 1]},${colours[c + 2]})`;
          const x = left(g, l);
          context.fillRect(x, y + 1, Math.max(lay.cell - gapX, 0.7), lay.row - 2);
        }
        context.globalAlpha = 1;
        if (group !== "control" && concept.found && concept.best >= 0) {
          context.beginPath();
          context.arc(left(g, concept.best) + lay.cell / 2, y + lay.row / 2, Math.min(4, Math.max(1.6, lay.cell * 0.3)), 0, 7);
          context.fillStyle = style.accent;
          context.strokeStyle = style.card;
          context.lineWidth = 1.5;
          context.fill();
          context.stroke();
        }
      });
      const mark = hover && hover.r === r ? hover : cursor && cursor.r === r && document.activeElement === box ? cursor : null;
      if (mark) {
        context.strokeStyle = style.ink;
        context.lineWidth = 1.6;
        lay.groups.forEach((_, g) => context.strokeRect(left(g, mark.l) - 0.5, y + 0.5, Math.max(lay.cell, 3), lay.row - 1));
      }
    }
    context.restore();
    axis(context, style);
  }

  function axis(context, style) {
    context.font = `11px ${FONT}`;
    context.textAlign = "center";
    context.textBaseline = "alphabetic";
    const every = [1, 2, 4, 5, 8, 10, 16, 20, 50].find((step) => step * lay.cell >= 24) ?? 100;
    lay.groups.forEach((group, g) => {
      context.fillStyle = style.quiet;
      about.layers.forEach((layer, l) => {
        const own = Number(layer);
        const shown = Number.isInteger(own) ? own % every === 0 : lay.cell * (every > 1 ? every : 1.4) >= 30;
        const word = !Number.isInteger(own) && lay.cell < 44; // a word wider than its cell ends where the cell ends
        context.textAlign = word ? "right" : "center";
        if (shown || word) context.fillText(layer, word ? left(g, l) + lay.cell : left(g, l) + lay.cell / 2, HEAD - 7);
      });
      if (lay.groups.length > 1) {
        context.textAlign = "left";
        context.font = `600 11px ${FONT}`;
        context.fillText(group === "score" ? "score" : "shuffled labels (control)", left(g, 0), 10);
        context.font = `11px ${FONT}`;
        context.textAlign = "center";
      }
    });
    context.textAlign = "left";
    context.fillText("layer", 6, HEAD - 7);
  }

  let asked = 0;
  function draw() {
    cancelAnimationFrame(asked);
    asked = requestAnimationFrame(now);
  }
  function now() {
    const width = box.clientWidth;
    if (!width) return;
    lay = layout(width);
    const view = Math.min(lay.height, box.clientHeight || lay.height);
    space.style.height = `${Math.max(0, lay.height - view)}px`;
    const ratio = window.devicePixelRatio || 1;
    const fresh = canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(view * ratio);
    const context = fresh ? sized(canvas, width, view) : canvas.getContext("2d");
    paint(context, box.scrollTop, view);
    legend();
  }

  function legend() {
    const [low, high] = range(lay.show);
    const bar = root.querySelector(".heat-scale");
    const context = sized(bar, 120, 8);
    const colours = palette("heat");
    for (let x = 0; x < 120; x += 1) {
      const c = 3 * Math.round((x / 119) * 255);
      context.fillStyle = `rgb(${colours[c]},${colours[c + 1]},${colours[c + 2]})`;
      context.fillRect(x, 0, 1, 8);
    }
    root.querySelector("[data-heat-low]").textContent = low.toFixed(2);
    root.querySelector("[data-heat-high]").textContent = high.toFixed(2);
    root.querySelector("[data-heat-what]").textContent = lay.show === "above" ? "score above control" : "score, and the same on shuffled labels";
  }

  function refresh() {
    const { sort, find } = state();
    rows = (about.orders[sort] ?? about.orders.order).filter((i) => about.concepts[i].name.toLowerCase().includes(find));
    hover = null;
    if (cursor && cursor.r >= rows.length) cursor = null;
    const total = HEAD + rows.length * (rows.length <= 60 ? 26 : 20) + 4;
    box.style.height = `${Math.min(total, Math.max(320, Math.round(innerHeight * 0.68)))}px`;
    const shown = rows.length === n ? `${n.toLocaleString("en")} concepts` : `${rows.length.toLocaleString("en")} of ${n.toLocaleString("en")} concepts`;
    root.querySelector("[data-heat-count]").textContent = `${shown} by ${depth} layers.`;
    draw();
  }

  function cellAt(event) {
    const frame = canvas.getBoundingClientRect();
    const x = event.clientX - frame.left;
    const y = event.clientY - frame.top;
    if (!lay || y < HEAD) return null;
    const r = Math.floor((y - HEAD + box.scrollTop) / lay.row);
    if (r < 0 || r >= rows.length) return null;
    for (let g = 0; g < lay.groups.length; g += 1) {
      const l = Math.floor((x - left(g, 0)) / lay.cell);
      if (l >= 0 && l < depth) return { r, l };
    }
    return x < lay.label ? { r, l: Math.max(0, about.concepts[rows[r]].best), name: true } : null;
  }

  function words({ r, l }) {
    const i = rows[r];
    const concept = about.concepts[i];
    const line = (column) => number(at(column, i, l));
    return [
      concept.name,
      `layer ${about.layers[l]}`,
      `score ${line("score")} [${line("low")}, ${line("high")}]`,
      `shuffled labels ${line("control")}`,
      `above control ${number(above(i, l))}`,
      concept.found ? `found, q ${number(concept.q)}` : `not found, q ${number(concept.q)}`,
    ];
  }

  function point(event) {
    const cell = cellAt(event);
    hover = cell;
    box.style.cursor = cell && !offline ? "pointer" : "default";
    tip.hidden = !cell;
    if (cell) {
      tip.textContent = words(cell).join("\n");
      const width = tip.offsetWidth;
      tip.style.left = `${Math.min(event.clientX + 14, innerWidth - width - 8)}px`;
      tip.style.top = `${Math.min(event.clientY + 16, innerHeight - tip.offsetHeight - 8)}px`;
    }
    draw();
  }
  const away = () => {
    hover = null;
    tip.hidden = true;
    draw();
  };
  const offline = Boolean(document.documentElement.dataset.offline);
  function open(cell) {
    if (offline || !cell) return;
    const query = new URLSearchParams({ atlas: about.atlas, concept: about.concepts[rows[cell.r]].id, layer: about.layers[cell.l] });
    location.assign(`/concept?${query}`);
  }

  function key(event) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], PageUp: [-10, 0], PageDown: [10, 0] }[event.key];
    if (event.key === "Enter") return open(cursor);
    if (event.key === "Home") cursor = { r: 0, l: 0 };
    else if (event.key === "End") cursor = { r: rows.length - 1, l: depth - 1 };
    else if (step) {
      const before = cursor ?? { r: 0, l: 0 };
      const moved = cursor ? step : [0, 0];
      cursor = {
        r: Math.min(rows.length - 1, Math.max(0, before.r + moved[0])),
        l: Math.min(depth - 1, Math.max(0, before.l + moved[1])),
      };
    } else return;
    event.preventDefault();
    if (!rows.length) return;
    const y = cursor.r * lay.row;
    if (y < box.scrollTop) box.scrollTop = y;
    if (y + lay.row + HEAD > box.scrollTop + box.clientHeight) box.scrollTop = y + lay.row + HEAD - box.clientHeight + 4;
    root.querySelector("[data-heat-said]").textContent = words(cursor).join(", ");
    draw();
  }

  const columns = ["concept", "layer", ...about.curves];
  function cells() {
    const found = [];
    for (const i of rows) {
      for (let l = 0; l < depth; l += 1) found.push([about.concepts[i].name, about.layers[l], ...about.curves.map((c) => at(c, i, l))]);
    }
    return found;
  }
  // Every row of it, as it is saved, at a width of its own.
  function drawing(tallest = Infinity) {
    const whole = layout(1200);
    whole.row = Math.min(whole.row, (tallest - HEAD - 4) / Math.max(rows.length, 1));
    const height = HEAD + rows.length * whole.row + 4;
    const inside = (context) => {
      const before = lay;
      lay = whole;
      paint(context, 0, height);
      lay = before;
    };
    return { width: whole.width, height, paint: inside };
  }
  function keep(event) {
    const kind = event.target.closest("[data-heat-save]")?.dataset.heatSave;
    const name = root.dataset.file;
    if (kind === "png") savePicture(name, drawing(30000 / (window.devicePixelRatio || 1)));
    if (kind === "svg") saveVectors(name, drawing());
    if (kind === "csv") saveCsv(name, columns, cells());
  }

  function changed(event) {
    const { sort, find, show } = state();
    if (event) select({ sort: sort === "depth" ? null : sort, find: find || null, show: show === "above" ? null : show, page: null });
    if (event) box.scrollTop = 0;
    refresh();
  }
  const stop = (event) => event.preventDefault();
  const watch = new ResizeObserver(draw);
  watch.observe(box);
  box.addEventListener("scroll", draw, { passive: true });
  box.addEventListener("pointermove", point);
  box.addEventListener("pointerleave", away);
  box.addEventListener("click", (event) => open(cellAt(event)));
  box.addEventListener("keydown", key);
  box.addEventListener("focus", draw);
  box.addEventListener("blur", draw);
  root.addEventListener("click", keep);
  form?.addEventListener("input", changed);
  form?.addEventListener("submit", stop);
  const off = onTheme(now); // at once: what is printed is not painted again
  changed();
  now();
  root.dataset.painted = "yes";
  performance.mark("heat-painted");
  return () => {
    watch.disconnect();
    off();
    tip.remove();
    form?.removeEventListener("input", changed);
    form?.removeEventListener("submit", stop);
  };
});
