// Drawing a box or a point on the image, with mouse, pen, finger or keys.

const SMALLEST_DRAG = 4; // of the screen's pixels; less is a slip
const hundredth = (value) => Math.round(value * 100) / 100;

class Drawing {
  // onDrawn({box} or {point}) in the image's pixels, onHint(text).
  constructor(stage, onDrawn, onHint) {
    Object.assign(this, { stage, onDrawn, onHint, tool: "look", start: null, cursor: null });
    const overlay = stage.overlay;
    overlay.addEventListener("pointerdown", (event) => this.begin(event));
    overlay.addEventListener("pointermove", (event) => this.move(event));
    overlay.addEventListener("pointerup", (event) => this.end(event));
    overlay.addEventListener("pointercancel", () => this.cancel());
    overlay.addEventListener("keydown", (event) => this.onKey(event));
    overlay.addEventListener("blur", () => this.keys && this.cancel());
  }

  setTool(tool) {
    this.cancel();
    this.tool = tool;
    const overlay = this.stage.overlay;
    overlay.dataset.tool = tool;
    overlay.tabIndex = tool === "look" ? -1 : 0;
    overlay.setAttribute("role", tool === "look" ? "img" : "application");
    this.onHint(
      {
        look: "",
        box: "Drag a box on the image. Keys: arrows move, Enter sets each of two corners.",
        point: "Click a point on the image. Keys: arrows move, Enter sets it.",
      }[tool],
    );
  }

  toImage(event) {
    return toImage(this.stage.overlay, event.clientX, event.clientY, this.stage.size);
  }

  begin(event) {
    if (this.tool === "look" || event.button !== 0 || !event.isPrimary) return;
    if (!isOnImage(this.stage.overlay, event.clientX, event.clientY, this.stage.size)) return;
    this.keys = false;
    this.start = this.toImage(event);
    this.startOnScreen = [event.clientX, event.clientY];
    this.stage.overlay.setPointerCapture(event.pointerId); // the drag may leave the image
    event.preventDefault();
  }

  move(event) {
    if (!this.start || this.keys || !event.isPrimary) return;
    if (this.tool === "box") this.preview({ box: boxAround(this.start, this.toImage(event)) });
  }

  end(event) {
    if (!this.start || this.keys || !event.isPrimary) return;
    const [x, y] = this.startOnScreen;
    const isDrag = Math.min(Math.abs(event.clientX - x), Math.abs(event.clientY - y)) >= SMALLEST_DRAG;
    if (this.tool === "point") this.finish({ point: this.toImage(event) });
    else if (isDrag) this.finish({ box: boxAround(this.start, this.toImage(event)) });
    else {
      this.cancel();
      this.onHint("That box is too small. Drag from one corner to the opposite one.");
    }
  }

  finish(drawn) {
    this.start = null;
    this.keys = false;
    this.cursor = null;
    this.preview(drawn); // stays until the answer comes
    const [name, values] = Object.entries(drawn)[0];
    this.onDrawn({ [name]: values.map(hundredth) });
  }

  cancel() {
    this.start = null;
    this.keys = false;
    this.cursor = null;
    this.preview(null);
  }

  // What was asked about now comes with the answers; a drawing that has begun meanwhile goes on.
  settle() {
    if (!this.start && !this.cursor) this.preview(null);
  }

  preview(drawn) {
    const points = drawn && drawn.point ? [drawn.point] : drawn && drawn.points;
    this.stage.drawing.replaceChildren(...(drawn ? this.stage.drawn({ box: drawn.box, points }) : []));
  }

  onKey(event) {
    if (this.tool === "look") return;
    if (event.key === "Escape") this.cancel();
    else if (event.key.startsWith("Arrow")) this.moveCursor(event);
    else if (event.key === "Enter" || event.key === " ") this.setCorner();
    else return;
    event.preventDefault();
  }

  moveCursor({ key, shiftKey }) {
    const [width, height] = this.stage.size;
    const step = Math.max(width, height) / (shiftKey ? 200 : 40);
    const [x, y] = this.cursor || [width / 2, height / 2];
    const dx = { ArrowLeft: -step, ArrowRight: step }[key] || 0;
    const dy = { ArrowUp: -step, ArrowDown: step }[key] || 0;
    this.keys = true;
    this.cursor = [clamp(x + dx, 0, width), clamp(y + dy, 0, height)];
    this.preview({ box: this.start && boxAround(this.start, this.cursor), points: [this.cursor] });
  }

  setCorner() {
    const [width, height] = this.stage.size;
    const here = this.cursor || [width / 2, height / 2];
    if (this.tool === "point") this.finish({ point: here });
    else if (!this.start || !this.keys) {
      Object.assign(this, { start: here, cursor: here, keys: true });
      this.preview({ points: [here] });
      this.onHint("First corner set. Move to the opposite corner with the arrow keys and press Enter.");
    } else if (boxArea(boxAround(this.start, here)) > 0) this.finish({ box: boxAround(this.start, here) });
    else this.onHint("A box needs a width and a height. Move away from the first corner.");
  }
}
