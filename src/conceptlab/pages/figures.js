"use strict";
// Draws each chart when it comes near the window, in the reader's colours; saves it; shows its numbers as a table. Charts that
// are put into the page later are drawn like those that were there. The charts' library stands in the page, or is fetched from
// the address in this script's `data-vega` when the first chart is drawn.
(() => {
  const address = document.currentScript && document.currentScript.dataset.vega;
  const root = document.documentElement;
  const themes = JSON.parse(document.getElementById("themes").textContent);
  const darkness = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => !printing && (root.dataset.theme ? root.dataset.theme === "dark" : darkness.matches);
  const drawn = new Map(); // figure -> {result, width, dark}
  let printing = false;

  let library = null;
  const fetched = () =>
    new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = address;
      script.onload = resolve;
      script.onerror = () => reject(new Error("the chart library did not come"));
      document.head.append(script);
    });
  const ready = () => (library ??= window.vegaEmbed || !address ? Promise.resolve() : fetched());

  const contents = new WeakMap();
  const read = (figure) => {
    if (!contents.has(figure)) {
      contents.set(figure, JSON.parse(figure.querySelector('script[type="application/json"]').textContent));
    }
    return contents.get(figure);
  };

  // Vega's own expression interpreter stands in for `new Function`, which the page's policy forbids.
  const options = { ast: true, actions: false, defaultStyle: false, renderer: "svg", mode: "vega-lite", logLevel: 1 };

  // A legend in three columns does not fit a telephone.
  const narrow = (spec) => {
    for (const { encoding = {} } of spec.layer || []) {
      for (const channel of [encoding.color, encoding.strokeDash]) {
        if (channel && channel.legend && channel.legend.columns) channel.legend.columns = 2;
      }
    }
  };

  const fitted = (spec, width) => {
    const copy = structuredClone(spec);
    if (copy.facet) {
      const square = copy.spec.width === copy.spec.height;
      const labels = square ? 120 : 140;
      const columns = copy.columns > 1 && width < 620 ? 1 : copy.columns;
      copy.columns = columns;
      const room = (width - labels - (columns - 1) * (square ? 150 : 30)) / columns;
      copy.spec.width = Math.max(120, Math.round(square ? Math.min(room, copy.spec.width) : room));
      if (square) copy.spec.height = copy.spec.width;
      if (columns === 2) copy.spacing = 150 - 20;
    } else {
      copy.width = "container";
      if (width < 400) narrow(copy);
      copy.autosize = { type: "fit-x", contains: "padding" };
    }
    return copy;
  };

  const tooltip = { disableDefaultStyle: true };

  // What is due in a figure: nothing where its colours and its width are what they were. `data-stale` says that it is being drawn again.
  function due(figure) {
    const width = figure.querySelector(".drawing").clientWidth;
    const dark = isDark();
    const before = drawn.get(figure);
    return width && !(before && before.dark === dark && Math.abs(before.width - width) < 24) ? { width, dark } : null;
  }

  function draw(figure) {
    const wanted = due(figure);
    const before = drawn.get(figure);
    if (!wanted) {
      if (!before || before.ended) delete figure.dataset.stale;
      return;
    }
    const state = { ...wanted, result: null, ended: false };
    figure.dataset.stale = "";
    drawn.set(figure, state);
    state.done = paint(figure, state, before);
  }

  // One drawing after the other, and only the last one asked for: of two at once the older could end last.
  async function paint(figure, state, before) {
    if (before) await before.done;
    state.result = before ? before.result : null;
    if (drawn.get(figure) !== state) return;
    const box = figure.querySelector(".drawing");
    const theme = { ...themes[state.dark ? "dark" : "light"], background: null };
    if (state.result) state.result.finalize();
    state.result = null;
    try {
      await ready();
      state.result = await vegaEmbed(box, fitted(read(figure).spec, state.width), { ...options, tooltip, config: theme });
      figure.dataset.drawn = "yes";
      box.style.minHeight = "";
    } catch (error) {
      box.textContent = `This chart could not be drawn: ${error.message}`;
      figure.dataset.drawn = "failed";
    }
    state.ended = true;
    if (drawn.get(figure) === state) delete figure.dataset.stale;
    else if (!figure.isConnected && state.result) state.result.finalize();
  }

  const nearby = new IntersectionObserver(
    (entries) => entries.filter((e) => e.isIntersecting).forEach((e) => draw(e.target)),
    { rootMargin: "400px 0px" },
  );
  const watch = (figure) => {
    const box = figure.querySelector(".drawing");
    if (!box.style.minHeight) box.style.minHeight = "260px";
    nearby.observe(figure);
  };
  const all = () => [...document.querySelectorAll("figure.chart")];
  all().forEach(watch);
  new MutationObserver((changes) => {
    for (const { addedNodes } of changes) {
      for (const node of addedNodes) {
        if (node.nodeType !== 1) continue;
        if (node.matches("figure.chart")) watch(node);
        node.querySelectorAll("figure.chart").forEach(watch);
      }
    }
    for (const [figure, { result }] of drawn) {
      if (figure.isConnected) continue;
      if (result) result.finalize();
      nearby.unobserve(figure);
      drawn.delete(figure);
    }
  }).observe(document.body, { childList: true, subtree: true });

  const redraw = () => [...drawn.keys()].forEach((figure) => draw(figure));
  let waiting = 0;
  addEventListener("resize", () => {
    for (const figure of drawn.keys()) if (due(figure)) figure.dataset.stale = "";
    clearTimeout(waiting);
    waiting = setTimeout(redraw, 200);
  });
  darkness.addEventListener("change", redraw);
  document.addEventListener("theme", redraw);
  addEventListener("beforeprint", () => {
    printing = true;
    all().forEach((figure) => draw(figure));
  });
  addEventListener("afterprint", () => {
    printing = false;
    redraw();
  });

  const offer = (name, url) => {
    const link = document.createElement("a");
    link.href = url;
    link.download = name;
    link.click();
  };
  const offerText = (name, type, text) => {
    const url = URL.createObjectURL(new Blob([text], { type }));
    offer(name, url);
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  };

  // What is saved has its title and the light colours, whatever the page looks like.
  async function picture(content) {
    const title = { text: content.title, subtitle: lines(content.says, 84) };
    const spec = { title, ...structuredClone(content.spec) };
    const box = document.createElement("div");
    await ready();
    return vegaEmbed(box, spec, { ...options, tooltip: false, config: themes.light });
  }
  const lines = (text, length) => {
    const out = [""];
    for (const word of text.split(" ")) {
      const last = out.length - 1;
      if (out[last] && out[last].length + word.length >= length) out.push(word);
      else out[last] += (out[last] ? " " : "") + word;
    }
    return out;
  };

  const columns = (rows) => [...new Set(rows.flatMap((row) => Object.keys(row)))];
  // A cell that a spreadsheet would take for a formula gets a leading quote.
  const cell = (value) => {
    if (value === null || value === undefined) return "";
    const text = typeof value === "string" && /^[=+\-@\t]/.test(value) ? `'${value}` : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const csv = (rows) => {
    const names = columns(rows);
    return [names, ...rows.map((row) => names.map((n) => row[n]))].map((r) => r.map(cell).join(",")).join("\n") + "\n";
  };

  const table = (rows) => {
    const names = columns(rows);
    const made = document.createElement("table");
    const line = (parent, tag, values) => {
      const tr = parent.appendChild(document.createElement("tr"));
      for (const value of values) tr.appendChild(document.createElement(tag)).textContent = value ?? "";
    };
    line(made.appendChild(document.createElement("thead")), "th", names);
    const body = made.appendChild(document.createElement("tbody"));
    for (const row of rows) line(body, "td", names.map((n) => row[n]));
    return made;
  };

  const actions = {
    async png(content, name) {
      const { view, finalize } = await picture(content);
      offer(`${name}.png`, await view.toImageURL("png", 2));
      finalize();
    },
    async svg(content, name) {
      const { view, finalize } = await picture(content);
      offerText(`${name}.svg`, "image/svg+xml", await view.toSVG());
      finalize();
    },
    async csv(content, name) {
      offerText(`${name}.csv`, "text/csv", csv(content.spec.datasets.rows));
    },
    async table(content, name, figure, button) {
      const box = figure.querySelector(".numbers");
      if (!box.firstChild) box.appendChild(table(content.spec.datasets.rows));
      box.hidden = !box.hidden;
      button.setAttribute("aria-expanded", String(!box.hidden));
    },
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-save]");
    if (!button) return;
    const figure = button.closest("figure");
    actions[button.dataset.save](read(figure), figure.dataset.file, figure, button);
  });
})();
