// Reads the answers out to those who do not see them: while the model writes, in pieces of some words.

const ANNOUNCE_MS = 1500;

class Announcer {
  constructor(live) {
    Object.assign(this, { live, said: "", wanted: "", timer: 0 });
  }

  say(view) {
    const text = view ? view.answers.map((answer) => answer.text).join(". ") : "";
    if (!text.startsWith(this.said)) this.clear();
    this.wanted = text;
    if (!text || !view.writing) this.speak();
    else if (!this.timer) this.timer = setTimeout(() => this.speak(), ANNOUNCE_MS);
  }

  clear() {
    this.said = "";
    this.live.replaceChildren();
  }

  speak() {
    clearTimeout(this.timer);
    this.timer = 0;
    if (this.wanted === this.said) return;
    this.live.append(make("span", "", this.wanted.slice(this.said.length)));
    this.said = this.wanted;
  }
}
