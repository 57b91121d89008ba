// Between the screen and the image's own pixels, and what lies where. Boxes are [x0, y0, x1, y1].

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// The overlay's viewBox is the image in its own pixels, so its matrix knows scale, letterbox and page zoom.
function toImage(overlay, clientX, clientY, [width, height]) {
  const there = new DOMPoint(clientX, clientY).matrixTransform(overlay.getScreenCTM().inverse());
  return [clamp(there.x, 0, width), clamp(there.y, 0, height)];
}

// Whether a place on the screen is on the image and not in the letterbox beside it.
function isOnImage(overlay, clientX, clientY, [width, height]) {
  const { x, y } = new DOMPoint(clientX, clientY).matrixTransform(overlay.getScreenCTM().inverse());
  return x >= 0 && y >= 0 && x <= width && y <= height;
}

const boxArea = ([x0, y0, x1, y1]) => Math.max(x1 - x0, 0) * Math.max(y1 - y0, 0);

const boxAround = ([xa, ya], [xb, yb]) => [Math.min(xa, xb), Math.min(ya, yb), Math.max(xa, xb), Math.max(ya, yb)];

function isInBox([x, y], [x0, y0, x1, y1], margin) {
  return x >= x0 - margin && x <= x1 + margin && y >= y0 - margin && y <= y1 + margin;
}

// outline: [x0, y0, x1, y1, ...], closed.
function isInOutline([x, y], outline) {
  let inside = false;
  for (let i = 0, j = outline.length - 2; i < outline.length; j = i, i += 2) {
    const [xi, yi, xj, yj] = [outline[i], outline[i + 1], outline[j], outline[j + 1]];
    if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) inside = !inside;
  }
  return inside;
}

function outlinesBox(outlines) {
  const box = [Infinity, Infinity, -Infinity, -Infinity];
  for (const outline of outlines) {
    for (let i = 0; i < outline.length; i += 2) {
      box[0] = Math.min(box[0], outline[i]);
      box[1] = Math.min(box[1], outline[i + 1]);
      box[2] = Math.max(box[2], outline[i]);
      box[3] = Math.max(box[3], outline[i + 1]);
    }
  }
  return box;
}

// An answer is an object if it has a place of its own, beside those of its words.
const isObject = (answer) => Boolean(answer.box || (answer.mask && answer.mask.length));

const objectBox = (answer) => answer.box || outlinesBox(answer.mask);

const centre = (box) => [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];

// What of the view lies at a point of the image, the smallest first: [{answer, word}], word null for an object.
// margin: in the image's pixels, so that a place that is a mere point can be met.
function whatIsAt(view, point, margin) {
  const found = [];
  view.answers.forEach((answer, a) => {
    if (isObject(answer)) {
      const hit = answer.mask && answer.mask.length
        ? answer.mask.some((outline) => isInOutline(point, outline))
        : isInBox(point, answer.box, 0);
      if (hit) found.push({ answer: a, word: null, area: boxArea(objectBox(answer)) });
    }
    answer.words.forEach((word, w) => {
      const hit = word.mask ? word.mask.some((outline) => isInOutline(point, outline))
        : word.box && isInBox(point, word.box, margin);
      if (hit) found.push({ answer: a, word: w, area: boxArea(word.box) });
    });
  });
  const objects = found.filter((one) => one.word === null);
  const bySize = (one, other) => one.area - other.area;
  if (!objects.length) return found.sort(bySize);
  // Of objects that lie over each other the smallest one is meant, and with it its own words there.
  const first = objects.sort(bySize)[0];
  return [first, ...found.filter((one) => one.word !== null && one.answer === first.answer).sort(bySize)];
}
