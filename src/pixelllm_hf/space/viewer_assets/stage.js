// The image and what is drawn over it. Everything is drawn in the image's pixels; lines and tags keep their size
// on the screen.

const SVG = "http://www.w3.org/2000/svg";
const hueOf = (index) => COLOURS[index % COLOURS.length];

function shape(tag, attributes = {}, className = "") {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (className) node.setAttribute("class", className);
  return node;
}

function layer(parent, className) {
  const group = shape("g", {}, className);
  parent.append(group);
  return group;
}

// A line twice: a dark casing below the colour, so that it is seen on any image.
function cased(tag, attributes, className) {
  return [shape(tag, attributes, `lv-casing ${className}`), shape(tag, attributes, `lv-line ${className}`)];
}

const rectOf = ([x0, y0, x1, y1]) => ({ x: x0, y: y0, width: x1 - x0, height: y1 - y0 });

const pathOf = (outlines) =>
  outlines.map((ring) => "M" + ring.map((v, i) => (i ? (i % 2 ? " " : "L") : "") + v).join("") + "Z").join("");

const pathAlong = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x} ${y}`).join("");

class Stage {
  constructor(root) {
    this.frame = root.querySelector(".lv-frame");
    this.image = root.querySelector(".lv-image");
    this.overlay = root.querySelector(".lv-overlay");
    this.size = [1, 1];
    this.unit = 1; // the image's pixels in one of the screen's
    for (const name of ["objects", "prompts", "trace", "places", "glow", "drawing", "pointer"]) {
      this[name] = layer(this.overlay, `lv-${name}`);
    }
    new ResizeObserver(() => this.measure()).observe(this.frame);
  }

  // The same <img> stays; a new address is set only when the image is another one.
  show(view) {
    this.size = view.size;
    const [width, height] = view.size;
    this.frame.style.setProperty("--ratio", width / height);
    this.overlay.setAttribute("viewBox", `0 0 ${width} ${height}`);
    if (this.image.getAttribute("src") !== view.image) this.image.setAttribute("src", view.image);
    this.measure();
  }

  measure() {
    const matrix = this.overlay.getScreenCTM();
    if (!matrix || !matrix.a) return; // not shown at the moment
    this.unit = 1 / matrix.a;
    for (const node of this.overlay.querySelectorAll("[data-x]")) this.settle(node);
  }

  // A group that keeps its size on the screen, with its origin at a point of the image.
  at([x, y], ...children) {
    const group = shape("g", { "data-x": x, "data-y": y });
    group.append(...children);
    this.settle(group);
    return group;
  }

  settle(group) {
    let [x, y, width] = ["x", "y", "width"].map((name) => Number(group.dataset[name] || 0));
    if (width) { // a tag: above its point, or above the corner of its box, and always within the image
      if (group.dataset.rise) [x, y] = [x - (width / 2) * this.unit, y - group.dataset.rise * this.unit];
      x = clamp(x, 0, Math.max(this.size[0] - width * this.unit, 0));
      y = Math.max(y, 22 * this.unit);
    }
    group.setAttribute("transform", `translate(${x} ${y}) scale(${this.unit})`);
  }

  dot(point, number, hue) {
    const text = shape("text", { y: 3.5 }, "lv-dot-number");
    text.textContent = number;
    const group = this.at(point, shape("circle", { r: number ? 8.5 : 5 }, "lv-dot"), text);
    group.style.setProperty("--hue", hue);
    return group;
  }

  // The number and the beginning of the text, above the left top corner of a box; with `rise` that far above a point.
  tag([x, y], text, hue, rise = "") {
    const letters = Array.from(text);
    const label = shape("text", { x: 6, y: -6.5 }, "lv-tag-text");
    label.textContent = letters.length > 28 ? letters.slice(0, 27).join("") + "…" : text;
    const plate = shape("rect", { x: 0, y: -20, height: 19, rx: 4 }, "lv-tag-plate");
    const group = this.at([x, y], plate, label);
    group.dataset.rise = rise;
    group.style.setProperty("--hue", hue);
    return { group, fit: () => this.fitTag(group, plate, label) };
  }

  fitTag(group, plate, label) {
    const width = label.getComputedTextLength() + 12; // known only once it is in the page
    plate.setAttribute("width", width);
    group.dataset.width = width;
    this.settle(group);
  }

  // The layers below the glow: objects, what was asked about, and the words' places of the caption `current`, if any.
  drawView(view, current) {
    this.objects.replaceChildren();
    this.prompts.replaceChildren();
    this.places.replaceChildren();
    this.trace.replaceChildren();
    view.answers.forEach((answer, a) => {
      if (isObject(answer)) this.drawObject(answer, a, this.objects, String(a + 1));
    });
    this.drawPrompts(view);
    const words = current < 0 ? [] : view.answers[current].words.filter((word) => word.point);
    const said = words.filter((word) => !word.mask); // things have no path through them
    this.trace.append(...cased("path", { d: pathAlong(said.map((word) => word.point)) }, "lv-trace-line"));
    words.forEach((word, i) => {
      if (word.mask) this.objects.append(this.outlined(word.mask, hueOf(i)));
      this.places.append(this.dot(word.point, i + 1, hueOf(i)));
    });
  }

  // A mask's outlines, filled.
  outlined(mask, hue) {
    const group = shape("g", {}, "lv-shape");
    group.style.setProperty("--hue", hue);
    const outline = { d: pathOf(mask) };
    group.append(shape("path", outline, "lv-mask"), ...cased("path", outline, "lv-outline"));
    return group;
  }

  drawObject(answer, a, into, name) {
    const group = answer.mask && answer.mask.length ? this.outlined(answer.mask, hueOf(a)) : shape("g", {}, "lv-shape");
    group.dataset.answer = a;
    group.style.setProperty("--hue", hueOf(a));
    into.append(group);
    if (answer.box) group.append(...cased("rect", rectOf(answer.box), answer.mask ? "lv-box lv-thin" : "lv-box"));
    const [x, y] = objectBox(answer);
    const tag = this.tag([x, y], name, hueOf(a));
    group.append(tag.group);
    tag.fit();
  }

  drawPrompts(view) {
    const seen = new Set();
    for (const answer of view.answers) {
      if (isObject(answer)) continue; // a found object's own box says more
      const key = JSON.stringify([answer.prompt_box, answer.prompt_points]);
      if (seen.has(key)) continue;
      seen.add(key);
      this.prompts.append(...this.drawn({ box: answer.prompt_box, points: answer.prompt_points }));
    }
  }

  // What a visitor pointed at: a dashed box, or crosses.
  drawn({ box, points }) {
    const nodes = [];
    if (box) nodes.push(...cased("rect", rectOf(box), "lv-drawn"));
    for (const point of points || []) {
      nodes.push(this.at(point.slice(0, 2), ...cased("path", { d: "M-9 0H9M0 -9V9" }, "lv-cross")));
    }
    return nodes;
  }

  // lit: [{answer, word}], the first one is drawn.
  drawGlow(view, lit) {
    this.glow.replaceChildren();
    this.overlay.classList.toggle("lv-dimmed", lit.length > 0);
    if (!lit.length) return;
    const { answer: a, word: w } = lit[0];
    const answer = view.answers[a];
    const group = shape("g", { "data-answer": a }, "lv-shape lv-lit");
    this.glow.append(group);
    if (w === null) {
      this.drawObject(answer, a, group, `${a + 1} ${answer.text}`);
      return;
    }
    const word = answer.words[w];
    const number = wordNumber(answer, w);
    const hue = wordHue(answer, a, w);
    group.dataset.word = w;
    group.style.setProperty("--hue", hue);
    const rect = rectOf(word.box);
    const side = Math.max(rect.width, rect.height) / this.unit; // on the screen
    if (word.mask) group.append(this.outlined(word.mask, hue));
    else if (side > 3) group.append(shape("rect", rect, "lv-mask"), ...cased("rect", rect, "lv-box"));
    group.append(this.at(word.point, shape("circle", { r: 15 }, "lv-halo")), this.dot(word.point, number, hue));
    const text = `${number} ${word.text}`.trim();
    const tag = side > 40 ? this.tag(word.box, text, hue) : this.tag(word.point, text, hue, 18);
    group.append(tag.group);
    tag.fit();
  }

  // The moving pointer of the playback; trail: points gone through.
  drawPointer(point, trail) {
    this.pointer.replaceChildren();
    if (!point) return;
    this.pointer.append(...cased("path", { d: pathAlong([...trail, point]) }, "lv-trail"));
    const ring = shape("circle", { r: 13 }, "lv-pointer-ring");
    this.pointer.append(this.at(point, ring, shape("circle", { r: 4 }, "lv-pointer-dot")));
  }
}

// Words of a caption are numbered from 1, those without a place left out, and each has a colour. Words of an object
// have its colour and no number, which would be taken for an object's.
function wordNumber(answer, w) {
  return isObject(answer) ? "" : String(answer.words.slice(0, w + 1).filter((word) => word.point).length);
}

const wordHue = (answer, a, w) => hueOf(isObject(answer) ? a : wordNumber(answer, w) - 1);
