// A drawing { width, height, paint(context) } is kept as pixels or as vectors: the same code paints on a canvas or on `Vectors`,
// which writes down what a canvas would show. Pictures of many cells become one image in it, their words stay words.
const lab = globalThis.conceptlab;
const measuring = document.createElement("canvas").getContext("2d");
const safe = (text) => String(text).replace(/[&<>"'\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, (c) => (c < " " || c > "\ufffd" ? "\ufffd" : `&#${c.charCodeAt(0)};`));
const ANCHORS = { left: "start", start: "start", center: "middle", right: "end", end: "end" };
const two = (value) => String(Math.round(value * 100) / 100);
const kept = ["fillStyle", "strokeStyle", "lineWidth", "font", "textAlign", "textBaseline", "globalAlpha", "imageSmoothingEnabled", "at"];

class Vectors {
  constructor(width, height) {
    Object.assign(this, {
      width, height, parts: [], stack: [], clips: 0, path: "", at: "", fillStyle: "#000", strokeStyle: "#000", lineWidth: 1,
      font: "10px sans-serif", textAlign: "left", textBaseline: "alphabetic", globalAlpha: 1, imageSmoothingEnabled: true,
    });
  }

  write(shape, more) {
    const faint = this.globalAlpha < 1 ? ` opacity="${this.globalAlpha}"` : "";
    this.parts.push(`<${shape}${this.at ? ` transform="${this.at}"` : ""}${faint} ${more}`);
  }
  box = (x, y, w, h) => `x="${two(Math.min(x, x + w))}" y="${two(Math.min(y, y + h))}" width="${two(Math.abs(w))}" height="${two(Math.abs(h))}"`;
  fillRect(...box) {
    this.write("rect", `${this.box(...box)} fill="${safe(this.fillStyle)}"/>`);
  }
  strokeRect(...box) {
    this.write("rect", `${this.box(...box)} fill="none" stroke="${safe(this.strokeStyle)}" stroke-width="${this.lineWidth}"/>`);
  }
  clearRect() {}
  measureText(text) {
    measuring.font = this.font;
    return measuring.measureText(text);
  }
  fillText(text, x, y) {
    measuring.font = this.font; // writes the font out in full: weight, size, families
    const [, weight, size, families] = measuring.font.match(/^(?:(bold|\d+) )?.*?([\d.]+)px (.*)$/) ?? [null, null, "10", "sans-serif"];
    const middle = this.textBaseline === "middle" ? ' dominant-baseline="central"' : "";
    const bold = weight ? ` font-weight="${weight}"` : "";
    const anchor = ANCHORS[this.textAlign] === "start" ? "" : ` text-anchor="${ANCHORS[this.textAlign]}"`;
    this.write("text", `x="${two(x)}" y="${two(y)}" font-size="${size}" font-family="${safe(families)}"${bold}${anchor}${middle} fill="${safe(this.fillStyle)}" xml:space="preserve">${safe(text)}</text>`);
  }
  // A part of a canvas, its pixels as they are.
  drawImage(source, ...given) {
    const [sx, sy, sw, sh, x, y, w, h] = given.length === 8 ? given : [0, 0, source.width, source.height, ...given];
    if (sw <= 0 || sh <= 0) return;
    const cut = document.createElement("canvas");
    [cut.width, cut.height] = [sw, sh];
    cut.getContext("2d").drawImage(source, sx, sy, sw, sh, 0, 0, sw, sh);
    const sharp = this.imageSmoothingEnabled ? "" : ' image-rendering="pixelated"';
    this.write("image", `${this.box(x, y, w, h)} preserveAspectRatio="none"${sharp} href="${cut.toDataURL()}"/>`);
  }

  save() {
    this.stack.push({ state: Object.fromEntries(kept.map((name) => [name, this[name]])), clipped: 0 });
  }
  restore() {
    const { state, clipped } = this.stack.pop();
    this.parts.push("</g>".repeat(clipped));
    Object.assign(this, state);
  }
  translate(x, y) {
    this.at = `${this.at} translate(${two(x)} ${two(y)})`.trim();
  }
  rotate(angle) {
    this.at = `${this.at} rotate(${two((angle * 180) / Math.PI)})`.trim();
  }
  beginPath() {
    this.path = "";
  }
  rect(...box) {
    this.path += `<rect ${this.box(...box)}/>`;
  }
  arc(x, y, r) {
    this.path += `<circle cx="${two(x)}" cy="${two(y)}" r="${two(r)}"/>`;
  }
  fill() {
    this.write("g", `fill="${safe(this.fillStyle)}">${this.path}</g>`);
  }
  stroke() {
    this.write("g", `fill="none" stroke="${safe(this.strokeStyle)}" stroke-width="${this.lineWidth}">${this.path}</g>`);
  }
  // Everything up to `restore` is seen only inside the path.
  clip() {
    this.clips += 1;
    this.stack.at(-1).clipped += 1;
    this.parts.push(`<clipPath id="clip${this.clips}">${this.path}</clipPath><g clip-path="url(#clip${this.clips})">`);
  }
  svg() {
    return `<svg xmlns="http://www.w3.org/2000/svg" width="${two(this.width)}" height="${two(this.height)}" viewBox="0 0 ${two(this.width)} ${two(this.height)}">${this.parts.join("")}</svg>`;
  }
}

lab.savePicture = (name, { width, height, paint }) => {
  const canvas = document.createElement("canvas");
  paint(lab.sized(canvas, width, height));
  lab.savePng(name, canvas);
};
lab.saveVectors = (name, { width, height, paint }) => {
  const vectors = new Vectors(width, height);
  paint(vectors);
  lab.save(`${name}.svg`, new Blob([vectors.svg()], { type: "image/svg+xml" }));
};
