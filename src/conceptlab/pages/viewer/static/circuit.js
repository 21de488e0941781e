// The circuit as a layered graph: threshold, chosen and pinned nodes, groups with labels that the server keeps.
const { widget, number, save, saveCsv, say } = globalThis.conceptlab;

const NS = "http://www.w3.org/2000/svg";
const visible = (text) => [...String(text)].map((c) => (/[\p{Cc}\p{Cf}]/u.test(c) ? `\\u${c.codePointAt(0).toString(16).padStart(4, "0")}` : c)).join("");
const COLUMNS = ["rank", "source", "target", "weights", "low", "high", "exact", "control", "p", "q", "direction", "chosen"];

function svg(name, attributes = {}, text) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  if (text !== undefined) made.textContent = text;
  return made;
}
const html = (name, more = {}) => Object.assign(document.createElement(name), more);

// A cubic B-spline through the lanes of an edge, from end to end.
function spline(points) {
  const p = [points[0], ...points, points.at(-1)];
  let path = `M${p[0][0]},${p[0][1]}`;
  for (let i = 1; i < p.length - 1; i += 1) {
    const [a, b, c] = [p[i - 1], p[i], p[i + 1]];
    const mix = (u, v, w) => (u + 4 * v + w) / 6;
    if (i === 1) path += `L${mix(a[0], b[0], c[0])},${mix(a[1], b[1], c[1])}`;
    else path += `C${(2 * a[0] + b[0]) / 3},${(2 * a[1] + b[1]) / 3} ${(a[0] + 2 * b[0]) / 3},${(a[1] + 2 * b[1]) / 3} ${mix(a[0], b[0], c[0])},${mix(a[1], b[1], c[1])}`;
  }
  return `${path}L${p.at(-1)[0]},${p.at(-1)[1]}`;
}

widget("circuit", (root) => {
  const role = (name) => root.querySelector(`[data-role="${name}"]`);
  const { graph, notes } = JSON.parse(role("card").textContent);
  if (!graph.edges.length) return null;
  const nodes = new Map(graph.nodes.map((node) => [node.name, node]));
  const kept = tidy(notes);
  const chosen = new Set();
  const most = Math.max(...graph.edges.map((edge) => Math.abs(edge.weights ?? 0))) || 1;
  let least = 0;
  let saving = null;

  // Notes may be anything that anybody saved: only what fits this graph is taken.
  function tidy(given) {
    const known = (name) => nodes.has(name);
    const list = (value) => (Array.isArray(value) ? value : []);
    const groups = list(given?.groups).filter((g) => g && typeof g.label === "string").map((g) => ({ label: g.label, nodes: list(g.nodes).filter(known) }));
    const moved = Object.entries(given?.moved ?? {}).filter(([name, at]) => known(name) && list(at).length === 2 && at.every(Number.isFinite));
    return { pinned: new Set(list(given?.pinned).filter(known)), groups: groups.filter((g) => g.nodes.length), moved: Object.fromEntries(moved) };
  }
  function keep() {
    if (!root.dataset.notes) return;
    clearTimeout(saving);
    root.dataset.unsaved = "yes";
    const mine = setTimeout(async () => {
      const body = JSON.stringify({ pinned: [...kept.pinned], groups: kept.groups, moved: kept.moved });
      try {
        const answer = await fetch(root.dataset.notes, { method: "PUT", headers: { "Content-Type": "application/json" }, body });
        if (!answer.ok) throw new Error((await answer.text()).trim().slice(0, 300));
        role("kept").textContent = "Saved.";
        if (mine === saving) delete root.dataset.unsaved;
      } catch (error) {
        role("kept").textContent = `Not saved: ${error.message}`;
      }
    }, 300);
    saving = mine;
  }

  // -- the drawing -----------------------------------------------------------------------------------------------------
  const picture = svg("svg", { width: graph.width, height: graph.height, viewBox: `-8 -14 ${graph.width + 16} ${graph.height + 28}`, role: "group", "aria-label": "the circuit as a graph, from the embedding below to the logits above" });
  const layers = { bands: svg("g"), groups: svg("g"), edges: svg("g"), hits: svg("g"), nodes: svg("g") };
  picture.append(...Object.values(layers));
  role("graph").append(picture);
  const place = (name) => kept.moved[name] ?? [nodes.get(name).x, nodes.get(name).y];

  for (const layer of [...new Set(graph.nodes.filter((n) => !["embed", "logits"].includes(n.kind)).map((n) => n.layer))]) {
    const y = graph.nodes.filter((n) => n.layer === layer && !["embed", "logits"].includes(n.kind)).map((n) => n.y);
    const [top, bottom] = [Math.min(...y) - graph.box / 2 - 8, Math.max(...y) + graph.box / 2 + 8];
    layers.bands.append(svg("rect", { class: "cg-band", x: 0, y: top, width: graph.width, height: bottom - top, rx: 6 }));
    layers.bands.append(svg("text", { class: "cg-layer", x: 8, y: bottom - 10 }, `layer ${layer}`));
  }
  for (const [x, y, u, v] of graph.served) layers.bands.append(svg("line", { class: "cg-served", x1: x, y1: y, x2: u, y2: v }));

  const wires = [...graph.edges].reverse().map((edge) => {
    const kind = `cg-edge${edge.weights < 0 ? " negative" : ""}${edge.q !== null && edge.q > 0.05 ? " unsure" : ""}`;
    const width = (0.8 + (4.7 * Math.abs(edge.weights ?? 0)) / most).toFixed(2);
    const line = svg("path", { class: kind, "stroke-width": width });
    const hit = svg("path", { class: "cg-hit" });
    hit.append(svg("title", {}, told(edge)));
    hit.addEventListener("click", () => choose([edge.source, edge.enters], false));
    layers.edges.append(line);
    layers.hits.append(hit);
    return { edge, line, hit };
  });
  function told(edge) {
    const interval = edge.low === null ? "" : ` [${number(edge.low)}, ${number(edge.high)}]`;
    return `${edge.source} → ${edge.target}: ${number(edge.weights)}${interval}, turned at random ${number(edge.control)}, q ${number(edge.q)}`;
  }
  function lead() {
    for (const { edge, line, hit } of wires) {
      const shift = (name) => (kept.moved[name] ? [kept.moved[name][0] - nodes.get(name).x, kept.moved[name][1] - nodes.get(name).y] : [0, 0]);
      const [from, to] = [shift(edge.source), shift(edge.enters)];
      const last = edge.points.length - 1;
      const points = edge.points.map(([x, y], i) => [x + from[0] * (1 - i / last) + to[0] * (i / last), y + from[1] * (1 - i / last) + to[1] * (i / last)]);
      const path = spline(points);
      line.setAttribute("d", path);
      hit.setAttribute("d", path);
    }
  }

  const boxes = new Map();
  for (const node of [...graph.nodes].sort((a, b) => b.y - a.y || a.x - b.x)) {
    const box = svg("g", { class: "cg-node", tabindex: 0, role: "button" });
    box.append(svg("rect", { x: -node.width / 2, y: -graph.box / 2, width: node.width, height: graph.box, rx: 5 }));
    box.append(svg("text", { y: node.ports.length ? -3 : 0 }, node.name));
    for (const port of node.ports) box.append(svg("text", { class: "cg-port", x: port.x, y: graph.box / 2 - 6 }, port.port));
    boxes.set(node.name, box);
    layers.nodes.append(box);
    box.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        choose([node.name], event.shiftKey);
      } else if (event.key.toLowerCase() === "p" && !event.ctrlKey && !event.metaKey) pin([node.name]);
    });
    drag(box, node);
  }
  function drag(box, node) {
    let from = null;
    box.addEventListener("pointerdown", (event) => {
      from = { x: event.clientX, y: event.clientY, at: place(node.name), moved: false, scale: picture.viewBox.baseVal.width / picture.getBoundingClientRect().width };
      box.setPointerCapture(event.pointerId);
    });
    box.addEventListener("pointermove", (event) => {
      if (!from) return;
      const [dx, dy] = [(event.clientX - from.x) * from.scale, (event.clientY - from.y) * from.scale];
      if (Math.hypot(dx, dy) > 4) from.moved = true;
      if (!from.moved || ["embed", "logits"].includes(node.kind)) return;
      kept.moved[node.name] = [Math.round(from.at[0] + dx), Math.round(from.at[1] + dy)];
      draw();
    });
    box.addEventListener("pointerup", (event) => {
      const was = from;
      from = null;
      if (was?.moved) keep();
      else choose([node.name], event.shiftKey);
    });
    box.addEventListener("pointercancel", () => (from = null));
  }

  // -- what is shown ------------------------------------------------------------------------------------------------------
  const strong = (edge) => Math.abs(edge.weights ?? 0) >= least || kept.pinned.has(edge.source) || kept.pinned.has(edge.enters);
  function draw() {
    lead();
    const live = new Set();
    let n = 0;
    for (const { edge, line, hit } of wires) {
      const on = strong(edge);
      if (on) {
        n += 1;
        live.add(edge.source).add(edge.enters);
      }
      line.classList.toggle("below", !on);
      hit.classList.toggle("below", !on);
      hit.setAttribute("pointer-events", on ? "stroke" : "none");
      line.classList.toggle("faint", on && chosen.size > 0 && !chosen.has(edge.source) && !chosen.has(edge.enters));
      root.querySelector(`tr[data-rank="${edge.rank}"]`)?.classList.toggle("off", !on);
    }
    for (const [name, box] of boxes) {
      const [x, y] = place(name);
      box.setAttribute("transform", `translate(${x} ${y})`);
      box.classList.toggle("below", !live.has(name) && !kept.pinned.has(name));
      box.classList.toggle("chosen", chosen.has(name));
      box.classList.toggle("pinned", kept.pinned.has(name));
      box.setAttribute("aria-pressed", String(chosen.has(name)));
      box.setAttribute("aria-label", `${name}${kept.pinned.has(name) ? ", pinned" : ""}, ${graph.edges.filter((e) => e.source === name || e.enters === name).length} edges`);
    }
    role("least").textContent = number(least);
    role("count").textContent = `${n} of ${graph.edges.length} edges${graph.n_edges > graph.edges.length ? `, the strongest of ${graph.n_edges}` : ""}`;
    frame();
  }
  function frame() {
    layers.groups.replaceChildren();
    for (const group of kept.groups) {
      const at = group.nodes.map((name) => ({ name, xy: place(name), w: nodes.get(name).width }));
      const [left, right] = [Math.min(...at.map((n) => n.xy[0] - n.w / 2)) - 9, Math.max(...at.map((n) => n.xy[0] + n.w / 2)) + 9];
      const [top, bottom] = [Math.min(...at.map((n) => n.xy[1])) - graph.box / 2 - 9, Math.max(...at.map((n) => n.xy[1])) + graph.box / 2 + 9];
      const made = svg("g", { class: "cg-group" });
      made.append(svg("rect", { x: left, y: top, width: right - left, height: bottom - top, rx: 9 }));
      made.append(svg("text", { x: left + 4, y: top - 4 }, visible(group.label)));
      layers.groups.append(made);
    }
  }
  role("threshold").addEventListener("input", (event) => {
    const share = Number(event.target.value) / 1000;
    least = share * share * most; // finer among the weak
    draw();
  });

  // -- what is chosen -----------------------------------------------------------------------------------------------------
  function choose(names, more) {
    const only = names.length === 1 && chosen.size === 1 && chosen.has(names[0]);
    if (!more) chosen.clear();
    for (const name of names) {
      if (more && chosen.has(name)) chosen.delete(name);
      else if (!only) chosen.add(name);
    }
    draw();
    side();
  }
  function pin(names) {
    const all = names.every((name) => kept.pinned.has(name));
    for (const name of names) {
      if (all) kept.pinned.delete(name);
      else kept.pinned.add(name);
    }
    draw();
    side();
    keep();
  }
  function side() {
    const box = role("chosen");
    if (!chosen.size) return box.replaceChildren(html("p", { className: "small", textContent: "Choose a node to see its edges." }));
    const names = [...chosen];
    const title = html("h3", { className: "figure-title", textContent: names.join(", ") });
    const acts = html("div", { className: "chosen-acts" });
    const pinned = names.every((name) => kept.pinned.has(name));
    const pinning = html("button", { type: "button", className: "plain", textContent: pinned ? "Unpin" : "Pin" });
    pinning.dataset.role = "pin";
    pinning.addEventListener("click", () => pin(names));
    acts.append(pinning);
    for (const name of names.slice(0, 4)) {
      if (nodes.get(name).unit) acts.append(html("a", { className: "button", href: nodes.get(name).unit, textContent: `Open ${name}` }));
    }
    const list = html("ul", { className: "edge-list", tabIndex: 0 });
    list.setAttribute("aria-label", "edges of what is chosen");
    for (const edge of graph.edges.filter((e) => chosen.has(e.source) || chosen.has(e.enters)).slice(0, 60)) {
      const row = html("li");
      row.append(html("span", { textContent: `${edge.source} → ${edge.target}` }), html("strong", { textContent: number(edge.weights) }), html("span", { className: "control", title: "turned at random", textContent: number(edge.control) }));
      list.append(row);
    }
    return box.replaceChildren(title, acts, list);
  }

  // -- groups ---------------------------------------------------------------------------------------------------------------
  function listGroups() {
    role("groups").replaceChildren(
      ...kept.groups.map((group) => {
        const row = html("div", { className: "group-row" });
        const label = html("input", { type: "text", value: group.label, maxLength: 200 });
        label.setAttribute("aria-label", `label of the group of ${group.nodes.join(", ")}`);
        label.addEventListener("change", () => {
          group.label = label.value;
          frame();
          keep();
        });
        const gone = html("button", { type: "button", className: "plain", textContent: "Remove" });
        gone.addEventListener("click", () => {
          kept.groups.splice(kept.groups.indexOf(group), 1);
          listGroups();
          frame();
          keep();
        });
        row.append(label, gone);
        return row;
      }),
    );
  }
  role("group-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const label = event.target.elements.label;
    if (!chosen.size) return say("Choose one node or more first.");
    kept.groups.push({ label: label.value || [...chosen].join(", "), nodes: [...chosen] });
    label.value = "";
    listGroups();
    draw();
    return keep();
  });

  // -- saving ---------------------------------------------------------------------------------------------------------------
  function standalone() {
    const copy = picture.cloneNode(true);
    const [from, to] = [picture.querySelectorAll("*"), copy.querySelectorAll("*")];
    const wanted = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-opacity", "opacity", "font-family", "font-size", "font-weight", "text-anchor", "dominant-baseline"];
    from.forEach((element, i) => {
      const style = getComputedStyle(element);
      for (const name of wanted) to[i].setAttribute(name, style.getPropertyValue(name));
    });
    for (const element of copy.querySelectorAll(".cg-hit")) element.remove();
    copy.setAttribute("xmlns", NS);
    const paper = svg("rect", { x: -8, y: -14, width: graph.width + 16, height: graph.height + 28, fill: getComputedStyle(role("graph")).backgroundColor });
    copy.prepend(paper);
    return new XMLSerializer().serializeToString(copy);
  }
  const title = `circuit-${graph.id}`;
  root.querySelector('[data-export="svg"]').addEventListener("click", () => save(`${title}.svg`, new Blob([standalone()], { type: "image/svg+xml" })));
  root.querySelector('[data-export="csv"]').addEventListener("click", () => saveCsv(title, COLUMNS, graph.edges.map((edge) => COLUMNS.map((c) => edge[c]))));
  root.querySelector('[data-export="png"]').addEventListener("click", () => {
    const url = URL.createObjectURL(new Blob([standalone()], { type: "image/svg+xml" }));
    const image = new Image();
    image.onload = () => {
      const canvas = html("canvas", { width: 2 * (graph.width + 16), height: 2 * (graph.height + 28) });
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      URL.revokeObjectURL(url);
      canvas.toBlob((blob) => save(`${title}.png`, blob));
    };
    image.src = url;
  });

  listGroups();
  draw();
  return () => clearTimeout(saving);
});
