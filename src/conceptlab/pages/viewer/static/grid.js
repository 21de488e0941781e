// What widgets with many cells share: a grid on canvas that scrolls without being drawn whole, its legend, saving, and tokens as chips.
// Loaded before the widgets of the Prompt page by its name; panels that follow the selection stand here, too.
const lab = globalThis.conceptlab;

// -- a grid ------------------------------------------------------------------------------------------------------------
// rows, cols: labels. value(r, c): 0..1, or -1..1 on the diverging scale, NaN for no cell. text(r, c), tip(r, c), mark(r, c), side(r):
// words in a cell, beside it, whether it is underlined, and the control in grey at the end of a row. pick(r, c) when it is chosen.
const FONT = "12px Inter, system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif";
const LABELS = 26;

// Which ink reads best on a colour: at least 4.5 : 1 on every ground.
const INKS = ["#ffffff", "#000000", "#14181c"];
const linear = (v) => (v <= 10 ? v / 3294.6 : ((v / 255 + 0.055) / 1.055) ** 2.4);
function inkOn(r, g, b) {
  const light = 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  return light > 0.25 ? 2 : light > 0.179 ? 1 : 0;
}

function grid(holder, given) {
  const box = holder.matches(".grid") ? holder : holder.querySelector(".grid");
  const space = box.querySelector(".grid-space");
  const canvas = box.querySelector("canvas");
  const said = box.parentElement.querySelector('[data-part="said"]');
  const options = { scale: "heat", gutter: 58, sideWidth: 0, upwards: false, wide: 78, widest: 124, fit: given.cols.length > 48, ...given };
  const nRows = options.rows.length;
  const nCols = options.cols.length;
  let picture = null; // the colours, a pixel a cell
  let inks = null; // which of `INKS` reads best in each cell
  let cursor = options.cursor ?? null;
  let hovered = null;
  let due = 0;

  const rowHeight = () => (nRows > 26 ? Math.max(7, Math.floor(560 / nRows)) : 22);
  const cellWidth = () => {
    const room = box.clientWidth - options.gutter - options.sideWidth;
    if (options.fit || lab.paper()) return Math.max(0.5, Math.min(options.wide, room / nCols));
    return Math.max(options.wide, Math.min(options.widest, room / nCols));
  };
  const top = () => (options.above ? 18 : 4);
  const height = () => top() + nRows * rowHeight() + LABELS;
  const yOf = (r) => top() + (options.upwards ? nRows - 1 - r : r) * rowHeight();
  const toRow = (y) => {
    const at = Math.floor((y - top()) / rowHeight());
    return options.upwards ? nRows - 1 - at : at;
  };

  function colour() {
    const colours = lab.palette(options.scale === "diverging" ? "diverging" : "heat");
    const inkOf = Uint8Array.from({ length: 256 }, (_, i) => inkOn(...colours.subarray(3 * i, 3 * i + 3)));
    const image = new ImageData(nCols, nRows);
    inks = new Uint8Array(nCols * nRows);
    for (let r = 0; r < nRows; r += 1) {
      for (let c = 0; c < nCols; c += 1) {
        const value = options.value(r, c);
        const to = 4 * ((options.upwards ? nRows - 1 - r : r) * nCols + c);
        if (!Number.isFinite(value)) continue;
        const at = 3 * Math.round(255 * Math.max(0, Math.min(1, options.scale === "diverging" ? (value + 1) / 2 : value)));
        image.data[to] = colours[at];
        image.data[to + 1] = colours[at + 1];
        image.data[to + 2] = colours[at + 2];
        image.data[to + 3] = 255;
        inks[r * nCols + c] = inkOf[at / 3];
      }
    }
    picture ??= document.createElement("canvas");
    picture.width = nCols;
    picture.height = nRows;
    picture.getContext("2d").putImageData(image, 0, 0);
  }

  // Draw the columns that lie between `left` and `left + width` pixels of the whole grid.
  function paint(context, left, width, wide) {
    const high = rowHeight();
    const end = options.gutter + width - options.gutter - options.sideWidth;
    const first = Math.max(0, Math.floor(left / wide));
    const last = Math.min(nCols, Math.ceil((left + end - options.gutter) / wide));
    const xOf = (c) => options.gutter + c * wide - left;
    context.fillStyle = lab.ink("--card");
    context.fillRect(0, 0, width, height());
    context.save();
    context.beginPath();
    context.rect(options.gutter, 0, Math.max(0, end - options.gutter), height());
    context.clip();
    context.imageSmoothingEnabled = false;
    context.drawImage(picture, first, 0, last - first, nRows, xOf(first), top(), (last - first) * wide, nRows * high);
    context.font = FONT;
    context.textBaseline = "middle";
    if (wide >= 9) {
      context.fillStyle = lab.ink("--card");
      for (let c = first; c <= last; c += 1) context.fillRect(xOf(c) - 0.5, 0, 1, top() + nRows * high);
      if (high >= 14) for (let r = 0; r <= nRows; r += 1) context.fillRect(options.gutter, top() + r * high - 0.5, width, 1);
    }
    if (options.text && wide >= 30 && high >= 14) words(context, first, last, wide, xOf);
    if (options.mark && wide >= 4) {
      for (let r = 0; r < nRows; r += 1) {
        for (let c = first; c < last; c += 1) {
          if (!options.mark(r, c)) continue;
          context.fillStyle = inks[r * nCols + c] ? "rgb(20 24 28 / 70%)" : "rgb(255 255 255 / 80%)";
          if (options.dots) {
            context.beginPath();
            context.arc(xOf(c) + wide / 2, yOf(r) + high / 2, 1.8, 0, 7);
            context.fill();
          } else context.fillRect(xOf(c) + 3, yOf(r) + high - 3.5, wide - 6, 1.2);
        }
      }
    }
    outline(context, cursor, xOf, wide, high, lab.ink("--ink"), 2);
    outline(context, hovered, xOf, wide, high, lab.ink("--quiet"), 1);
    below(context, first, last, wide, xOf);
    context.restore();
    beside(context, end);
  }

  function words(context, first, last, wide, xOf) {
    for (let r = 0; r < nRows; r += 1) {
      for (let c = first; c < last; c += 1) {
        const text = options.text(r, c);
        if (!text) continue;
        context.fillStyle = INKS[inks[r * nCols + c]];
        context.fillText(cut(context, text, wide - 8), xOf(c) + 5, yOf(r) + rowHeight() / 2 + 0.5);
      }
    }
  }

  function outline(context, at, xOf, wide, high, ink, thick) {
    if (!at || at[1] === null) return;
    context.strokeStyle = ink;
    context.lineWidth = thick;
    const w = Math.max(wide, 3);
    if (at[0] === null) context.strokeRect(xOf(at[1]), top() - 1, w, nRows * high + 2);
    else context.strokeRect(xOf(at[1]) + 0.5, yOf(at[0]) + 0.5, w - 1, high - 1);
  }

  // The columns' labels: as many as fit.
  function below(context, first, last, wide, xOf) {
    const y = top() + nRows * rowHeight() + 13;
    const least = wide >= 30 ? wide : Math.max(34, 10 * Math.ceil(1));
    const step = Math.max(1, Math.ceil(least / wide));
    for (let c = first - (first % step); c < last; c += step) {
      const chosen = cursor && cursor[1] === c;
      context.fillStyle = lab.ink(chosen ? "--ink" : "--quiet");
      context.font = chosen ? `600 ${FONT}` : FONT;
      context.fillText(cut(context, wide >= 30 ? options.cols[c] : `${c}`, least - 6), xOf(c) + (wide >= 30 ? 5 : 0), y);
    }
  }

  // The rows' labels at the left and their controls at the right stay where they are.
  function beside(context, end) {
    context.font = FONT;
    context.textBaseline = "middle";
    const high = rowHeight();
    const step = Math.max(1, Math.ceil(13 / high));
    for (let r = 0; r < nRows; r += step) {
      const y = yOf(r) + high / 2 + 0.5;
      const chosen = cursor && cursor[0] === r;
      context.fillStyle = lab.ink(chosen ? "--ink" : "--quiet");
      context.font = chosen ? `600 ${FONT}` : FONT;
      context.textAlign = "right";
      context.fillText(cut(context, options.rows[r], options.gutter - 12), options.gutter - 8, y);
      context.font = FONT;
      if (options.side && high >= 10) {
        context.fillStyle = lab.ink("--quiet");
        context.fillText(options.side(r), end + options.sideWidth - 4, y);
      }
    }
    if (options.above) {
      context.fillStyle = lab.ink("--quiet");
      context.fillText(options.above, end + options.sideWidth - 4, 9);
    }
    context.textAlign = "left";
  }

  function draw() {
    due = 0;
    if (!box.isConnected) return;
    const wide = cellWidth();
    const whole = options.gutter + options.sideWidth + wide * nCols;
    const width = Math.max(40, Math.min(box.clientWidth, Math.ceil(whole)));
    space.style.width = `${Math.ceil(whole)}px`;
    space.style.height = `${height()}px`;
    const context = lab.sized(canvas, width, height());
    paint(context, Math.min(box.scrollLeft, Math.max(0, whole - width)), width, wide);
  }
  const soon = () => (due ||= requestAnimationFrame(draw));

  function cellAt(event) {
    const at = canvas.getBoundingClientRect();
    const x = event.clientX - at.left - options.gutter;
    if (x < 0 || x > at.width - options.gutter - options.sideWidth) return null;
    const c = Math.floor((x + box.scrollLeft) / cellWidth());
    const r = toRow(event.clientY - at.top);
    return r >= 0 && r < nRows && c >= 0 && c < nCols ? [r, c] : null;
  }
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);
  function showTip(at, x, y) {
    tip.hidden = !at || !options.tip;
    if (tip.hidden) return;
    tip.textContent = options.tip(...at);
    place(tip, x, y);
  }
  const moved = (event) => {
    const at = cellAt(event);
    showTip(at, event.clientX, event.clientY);
    if (String(at) !== String(hovered)) {
      hovered = at;
      soon();
    }
  };
  const left = () => {
    tip.hidden = true;
    hovered = null;
    soon();
  };
  const clicked = (event) => {
    const at = cellAt(event);
    if (at) choose(at);
  };
  function choose(at, quietly = false) {
    cursor = at;
    if (at && at[1] !== null) {
      const wide = cellWidth();
      const seen = box.clientWidth - options.gutter - options.sideWidth;
      if (at[1] * wide < box.scrollLeft) box.scrollLeft = at[1] * wide;
      else if ((at[1] + 1) * wide > box.scrollLeft + seen) box.scrollLeft = (at[1] + 1) * wide - seen;
    }
    soon();
    if (quietly) return;
    options.pick?.(...at);
    if (said && at[0] !== null && options.tip) said.textContent = options.tip(...at);
  }
  const keyed = (event) => {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    const [r, c] = [cursor?.[0] ?? (options.upwards ? nRows - 1 : 0), cursor?.[1] ?? 0];
    const down = options.upwards ? -step[0] : step[0];
    choose([Math.max(0, Math.min(nRows - 1, r + down)), Math.max(0, Math.min(nCols - 1, c + step[1]))]);
    const at = canvas.getBoundingClientRect();
    showTip(cursor, at.left + options.gutter + (cursor[1] + 1) * cellWidth() - box.scrollLeft, at.top + yOf(cursor[0]) + rowHeight());
  };
  const gone = () => (tip.hidden = true);
  canvas.addEventListener("mousemove", moved);
  canvas.addEventListener("mouseleave", left);
  canvas.addEventListener("click", clicked);
  box.addEventListener("keydown", keyed);
  box.addEventListener("blur", gone);
  box.addEventListener("scroll", soon, { passive: true });
  const watch = new ResizeObserver(soon);
  watch.observe(box);
  const unTheme = lab.onTheme(() => {
    colour();
    draw(); // at once: what is printed is not painted again
  });
  colour();
  draw();

  return {
    recolour(change) {
      Object.assign(options, change);
      colour();
      soon();
    },
    fit(on) {
      options.fit = on;
      soon();
    },
    get fitted() {
      return options.fit;
    },
    choose: (at) => choose(at, true),
    get cursor() {
      return cursor;
    },
    picture() {
      const wide = Math.min(options.wide, Math.max(1, Math.floor(15000 / nCols)));
      const width = Math.ceil(options.gutter + options.sideWidth + wide * nCols);
      return { width, height: height(), paint: (context) => paint(context, 0, width, wide) };
    },
    end() {
      cancelAnimationFrame(due);
      watch.disconnect();
      unTheme();
      tip.remove();
    },
  };
}

function place(tip, x, y) {
  tip.style.left = `${Math.max(8, Math.min(x + 14, innerWidth - tip.offsetWidth - 8))}px`;
  const under = y + 16;
  tip.style.top = `${under + tip.offsetHeight > innerHeight - 6 ? Math.max(6, y - tip.offsetHeight - 12) : under}px`;
}

const widths = new Map();
function cut(context, text, room) {
  const key = `${context.font}|${text}|${Math.round(room)}`;
  let found = widths.get(key);
  if (found === undefined) {
    found = text;
    if (context.measureText(text).width > room) {
      let n = text.length;
      while (n > 0 && context.measureText(`${text.slice(0, n)}…`).width > room) n -= 1;
      found = n > 0 ? `${text.slice(0, n)}…` : "";
    }
    if (widths.size > 20000) widths.clear();
    widths.set(key, found);
  }
  return found;
}

// -- the legend --------------------------------------------------------------------------------------------------------
function legend(element, scale, low, high, what) {
  if (!element) return;
  const canvas = element.querySelector("canvas");
  const colours = lab.palette(scale);
  const context = lab.sized(canvas, 120, 8);
  for (let i = 0; i < 120; i += 1) {
    const at = 3 * Math.round((255 * i) / 119);
    context.fillStyle = `rgb(${colours[at]} ${colours[at + 1]} ${colours[at + 2]})`;
    context.fillRect(i, 0, 1.5, 8);
  }
  element.querySelector(".legend-low").textContent = low;
  element.querySelector(".legend-high").textContent = high;
  if (what !== undefined) element.querySelector(".legend-what").textContent = what;
}

// -- saving: a drawing as PNG and SVG, CSV and a table of rows ---------------------------------------------------------------------
const MOST_ROWS = 2000;
function tools(root, { name, columns, rows, drawing }) {
  root.querySelector(".tools")?.addEventListener("click", (event) => {
    const button = event.target.closest("[data-do]");
    if (!button) return;
    if (button.dataset.do === "png") lab.savePicture(name, drawing());
    if (button.dataset.do === "svg") lab.saveVectors(name, drawing());
    if (button.dataset.do === "csv") lab.saveCsv(name, value(columns), rows());
    if (button.dataset.do === "numbers") showNumbers(root.querySelector(".numbers"), button, value(columns), rows());
  });
}
const value = (given) => (typeof given === "function" ? given() : given);

function showNumbers(place, button, columns, rows) {
  const open = place.hidden;
  place.hidden = !open;
  button.setAttribute("aria-expanded", String(open));
  if (!open) return;
  const table = document.createElement("table");
  const line = (cells, kind) => {
    const row = document.createElement("tr");
    for (const cell of cells) {
      const made = document.createElement(kind);
      if (kind === "th") made.scope = "col";
      made.textContent = typeof cell === "number" ? lab.number(cell) : (cell ?? "");
      row.append(made);
    }
    return row;
  };
  const head = table.createTHead();
  head.append(line(columns, "th"));
  const body = table.createTBody();
  rows.slice(0, MOST_ROWS).forEach((row) => body.append(line(row, "td")));
  const more = document.createElement("p");
  more.className = "small";
  more.textContent = rows.length > MOST_ROWS ? `The first ${MOST_ROWS} of ${rows.length} rows; the CSV file has all.` : "";
  place.replaceChildren(table, more);
}

// -- tokens as one can touch them ------------------------------------------------------------------------------------------
function chips(strip, shown, pick) {
  const made = shown.map((text, i) => {
    const chip = document.createElement(pick ? "button" : "span");
    if (pick) chip.type = "button";
    chip.className = "chip";
    chip.dataset.at = i;
    const inner = document.createElement("bdi");
    inner.textContent = text;
    chip.append(inner);
    if (text.endsWith("\\n")) chip.classList.add("chip-break");
    return chip;
  });
  strip.replaceChildren(...made);
  if (!pick) return made;
  made.forEach((chip, i) => (chip.tabIndex = i ? -1 : 0));
  strip.addEventListener("click", (event) => {
    const chip = event.target.closest(".chip");
    if (chip) pick(Number(chip.dataset.at));
  });
  strip.addEventListener("keydown", (event) => {
    const at = made.indexOf(document.activeElement);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (at < 0 || !step) return;
    event.preventDefault();
    const next = made[Math.min(Math.max(at + step, 0), made.length - 1)];
    made.forEach((chip) => (chip.tabIndex = -1));
    next.tabIndex = 0;
    next.focus();
  });
  return made;
}

// Colour of a value on the diverging scale: [background, ink].
function shade(colours, value, most) {
  const at = Math.round(127.5 * (1 + Math.max(-1, Math.min(1, value / most))));
  const [r, g, b] = colours.subarray(3 * at, 3 * at + 3);
  return [`rgb(${r} ${g} ${b})`, INKS[inkOn(r, g, b)]];
}

function tipFor(strip, words) {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);
  const show = (event) => {
    const chip = event.target.closest?.(".chip");
    if (!chip) return hide();
    tip.textContent = words(Number(chip.dataset.at));
    tip.hidden = false;
    const box = chip.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${box.top - tip.offsetHeight - 6 < 4 ? box.bottom + 6 : box.top - tip.offsetHeight - 6}px`;
  };
  const hide = () => (tip.hidden = true);
  strip.addEventListener("mouseover", show);
  strip.addEventListener("focusin", show);
  strip.addEventListener("mouseleave", hide);
  strip.addEventListener("focusout", hide);
  addEventListener("scroll", hide, { passive: true });
  return () => {
    removeEventListener("scroll", hide);
    tip.remove();
  };
}

function markToken(made, at) {
  made.forEach((chip, i) => (i === at ? chip.setAttribute("aria-pressed", "true") : chip.removeAttribute("aria-pressed")));
}
const chosenToken = (selection, n) => {
  const at = selection.token === undefined || selection.token === "" ? NaN : Number(selection.token);
  return at >= 0 && at < n ? at : n - 1;
};
// The coloured tokens as a picture.
function stripPicture(shown, colour) {
  const width = 900;
  const measure = document.createElement("canvas").getContext("2d");
  const font = "14px ui-monospace, Menlo, Consolas, monospace";
  measure.font = font;
  const places = [];
  let x = 16;
  let y = 16;
  shown.forEach((text, i) => {
    const wide = measure.measureText(text).width + 8;
    if (x + wide > width - 16) [x, y] = [16, y + 28];
    places.push([x, y, wide, i]);
    x += wide + 3;
  });
  const height = y + 42;
  const paint = (context) => {
    context.fillStyle = lab.ink("--card");
    context.fillRect(0, 0, width, height);
    context.font = font;
    context.textBaseline = "middle";
    for (const [px, py, wide, i] of places) {
      const [ground, ink] = colour(i);
      context.fillStyle = ground;
      context.fillRect(px, py, wide, 24);
      context.fillStyle = ink;
      context.fillText(shown[i], px + 4, py + 13);
    }
  };
  return { width, height, paint };
}

Object.assign(lab, { grid, legend, tools, chips, shade, tipFor, markToken, chosenToken, stripPicture, placeTip: place, cutText: cut });

// -- a panel that asks its address again when a part of the selection that it names has changed ------------------------
lab.widget("follow", (body) => {
  const names = body.dataset.names.split(" ");
  let due = 0;
  const address = (selection) => {
    const query = new URLSearchParams();
    const prompt = document.querySelector(".prompt-form")?.dataset.prompt;
    for (const name of names) {
      const value = name === "prompt" ? (selection.prompt ?? prompt) : selection[name];
      if (value) query.set(name, value);
    }
    return `${body.dataset.base}?${query}`;
  };
  const ask = (selection) => {
    const url = address(selection);
    body.setAttribute("aria-busy", "true");
    globalThis.htmx.ajax("GET", url, { target: body, swap: "innerHTML" }).then(() => body.removeAttribute("aria-busy"));
  };
  if (document.documentElement.dataset.offline) return undefined;
  return lab.onSelect((change, selection) => {
    if (!names.some((name) => name in change)) return;
    clearTimeout(due);
    due = setTimeout(() => ask(selection), 120);
  });
});
