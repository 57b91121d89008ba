// The answers as text: words that can be pointed at, and for objects a numbered head. All text is inserted as text.

function make(tag, className, text = "") {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  return node;
}

function percent(score) {
  if (score === null || score === undefined) return "";
  return score > 0 && score < 0.005 ? "< 1 %" : `${Math.round(score * 100)} %`;
}

function describeWord(word, number) {
  const parts = [number ? `${number}: ${word.text}` : word.text];
  const [x, y] = word.point.map(Math.round);
  parts.push(`at ${x}, ${y}`);
  if (word.score !== null) parts.push(percent(word.score));
  return parts.join(", ");
}

function describeObject(answer, a) {
  const parts = [`${a + 1}: ${answer.text}`];
  const box = objectBox(answer).map(Math.round);
  parts.push(`box ${box[0]}, ${box[1]} to ${box[2]}, ${box[3]}`);
  if (answer.score !== null) parts.push(percent(answer.score));
  return parts.join(", ");
}

class AnswerList {
  // onPoint({answer, word} or null) while something is pointed at or focused; onPick({answer, word}) on tap or Enter.
  constructor(list, onPoint, onPick) {
    this.list = list;
    this.stop = null; // the one item that Tab reaches; arrow keys move it
    const placeOf = (event) => {
      const item = event.target.closest("[data-item]") || event.target.closest(".lv-object");
      return item && list.contains(item) ? this.placeOf(item) : null;
    };
    list.addEventListener("pointerover", (event) => event.pointerType !== "touch" && onPoint(placeOf(event)));
    list.addEventListener("pointerleave", (event) => event.pointerType !== "touch" && onPoint(null));
    list.addEventListener("focusin", (event) => {
      if (!event.target.matches("[data-item]")) return;
      this.setStop(event.target);
      if (event.target.matches(":focus-visible")) onPoint(placeOf(event));
    });
    list.addEventListener("focusout", () => onPoint(null));
    list.addEventListener("click", (event) => {
      const place = placeOf(event);
      if (place) onPick(place);
    });
    list.addEventListener("keydown", (event) => this.onKey(event, onPick));
  }

  placeOf(node) {
    const { answer, word } = node.dataset;
    return { answer: Number(answer), word: word === undefined ? null : Number(word) };
  }

  items() {
    return [...this.list.querySelectorAll("[data-item]")];
  }

  setStop(item) {
    if (this.stop && this.stop !== item) this.stop.tabIndex = -1;
    this.stop = item;
    if (item) item.tabIndex = 0;
  }

  onKey(event, onPick) {
    const items = this.items();
    const here = items.indexOf(event.target);
    if (here < 0) return;
    const answers = items.map((item) => item.dataset.answer);
    const firstOf = (answer) => answers.indexOf(answer);
    const after = answers.findIndex((answer, i) => i > here && answer !== answers[here]);
    const before = here > 0 ? firstOf(answers[firstOf(answers[here]) - 1] ?? answers[here]) : 0;
    const next = {
      ArrowRight: here + 1,
      ArrowLeft: here - 1,
      ArrowDown: after < 0 ? here + 1 : after,
      ArrowUp: firstOf(answers[here]) === 0 ? here - 1 : before,
      Home: 0,
      End: items.length - 1,
    }[event.key];
    if (next !== undefined) items[clamp(next, 0, items.length - 1)].focus();
    else if (event.key === "Enter" || event.key === " ") onPick(this.placeOf(event.target));
    else return;
    event.preventDefault();
  }

  // Rows and words that are there already stay as they are, so that nothing flickers while the text grows.
  show(view) {
    while (this.list.children.length > view.answers.length) this.list.lastChild.remove();
    view.answers.forEach((answer, a) => {
      const kind = isObject(answer) ? "object" : "caption";
      let row = this.list.children[a];
      if (!row || row.dataset.kind !== kind) {
        const made = this.makeRow(a, kind);
        if (row) row.replaceWith(made);
        else this.list.append(made);
        row = made;
      }
      this.fillRow(row, answer, a);
      row.classList.toggle("lv-writing", view.writing && a === view.answers.length - 1);
    });
    const items = this.items();
    if (!items.includes(this.stop)) this.setStop(items[0] || null);
  }

  makeRow(a, kind) {
    const row = make("li", `lv-answer lv-${kind}`);
    row.dataset.kind = kind;
    row.dataset.answer = a;
    row.style.setProperty("--hue", hueOf(a));
    if (kind === "object") row.append(this.makeItem("lv-number", String(a + 1), { answer: a }));
    row.append(make("p", "lv-text"));
    if (kind === "object") row.append(make("span", "lv-score"));
    return row;
  }

  makeItem(className, text, place) {
    const item = make("span", className, text);
    item.setAttribute("role", "button");
    item.setAttribute("aria-pressed", "false");
    item.tabIndex = -1;
    item.dataset.item = "";
    Object.assign(item.dataset, place);
    return item;
  }

  fillRow(row, answer, a) {
    const text = row.querySelector(".lv-text");
    const pieces = this.pieces(answer, a);
    const old = [...text.childNodes];
    let same = 0;
    while (same < old.length && same < pieces.length && this.keeps(old[same], pieces[same])) same++;
    old.slice(same).forEach((node) => node.remove());
    for (const piece of pieces.slice(same)) text.append(this.makePiece(piece, a));
    pieces.forEach((piece, i) => {
      if (piece.word) text.childNodes[i].setAttribute("aria-label", describeWord(piece.word, piece.number));
    });
    if (!isObject(answer)) return;
    row.querySelector(".lv-number").setAttribute("aria-label", describeObject(answer, a));
    row.querySelector(".lv-score").textContent = percent(answer.score);
  }

  // Whether a node can stay for a piece; one of plain text takes over what the piece says.
  keeps(node, piece) {
    if (piece.word) return node.lvKey === piece.key;
    if (node.nodeType !== Node.TEXT_NODE) return false;
    if (node.data !== piece.text) node.data = piece.text;
    return true;
  }

  // The text cut into words with a place and what is between them. Offsets count characters, not UTF-16 units.
  pieces(answer, a) {
    const letters = Array.from(answer.text);
    const pieces = [];
    let done = 0;
    const plain = (end) => {
      const text = letters.slice(done, end).join("");
      if (text) pieces.push({ text });
      done = Math.max(done, end);
    };
    answer.words.forEach((word, w) => {
      if (!word.point || !word.box || word.start < done || word.end > letters.length) return;
      plain(word.start);
      const text = letters.slice(word.start, word.end).join("");
      const [number, hue] = [wordNumber(answer, w), wordHue(answer, a, w)];
      pieces.push({ key: `${w}:${number}:${text}`, text, word, index: w, number, hue });
      done = word.end;
    });
    plain(letters.length);
    return pieces;
  }

  makePiece(piece, a) {
    let node;
    if (piece.word) {
      node = this.makeItem("lv-word", piece.text, { answer: a, word: piece.index });
      node.style.setProperty("--hue", piece.hue);
      node.dataset.number = piece.number; // shown by the style sheet, so that copied text is only the text
    } else {
      node = document.createTextNode(piece.text);
    }
    node.lvKey = piece.key;
    return node;
  }

  // lit: [{answer, word}], the first one strongly; pinned: one of them or null.
  light(lit, pinned) {
    const isOne = (place, node) =>
      Boolean(place) && place.answer === Number(node.dataset.answer) &&
      place.word === (node.dataset.word === undefined ? null : Number(node.dataset.word));
    for (const item of this.items()) {
      item.classList.toggle("lv-lit", isOne(lit[0], item));
      item.classList.toggle("lv-near", lit.slice(1).some((place) => isOne(place, item)));
      item.setAttribute("aria-pressed", String(isOne(pinned, item)));
    }
    for (const row of this.list.children) {
      row.classList.toggle("lv-lit", lit.length > 0 && lit[0].word === null && isOne(lit[0], row));
    }
  }

  // Brings an object into sight within the list, never moving the page.
  reveal(place) {
    const row = this.list.children[place.answer];
    if (!row || this.list.scrollHeight <= this.list.clientHeight) return;
    const top = row.offsetTop - this.list.offsetTop;
    if (top < this.list.scrollTop) this.list.scrollTop = top;
    else if (top + row.offsetHeight > this.list.scrollTop + this.list.clientHeight) {
      this.list.scrollTop = top + row.offsetHeight - this.list.clientHeight;
    }
  }
}
