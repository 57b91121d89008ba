// Brings the parts together. Lit is, in this order: the word that is played, what is pointed at, what was picked, and
// while the model writes its newest word.

const root = element.querySelector(".lv");
const find = (selector) => root.querySelector(selector);
const styles = document.createElement("style");
styles.textContent = STYLES;
root.prepend(styles);

let view = null;
let played = null; // {answer, word} each, or null
let pointed = []; // the first one is meant, the others lie there too
let picked = null;
let version = 0; // of the view
let isShown = false; // the first view comes with the page
let drawnView = "";
let drawnGlow = "";

const stage = new Stage(root);
const spoken = new Announcer(find(".lv-live"));
const hint = (text) => {
  find(".lv-hint").textContent = text;
};

const list = new AnswerList(
  find(".lv-answers"),
  (place) => point(place ? [place] : []),
  (place) => pick(place),
);

const drawing = new Drawing(
  stage,
  (drawn) => {
    hint("");
    trigger("submit", drawn);
  },
  hint,
);

const playback = new Playback(
  stage,
  () => tracedWords(),
  (place) => {
    played = place;
    light();
  },
  (isPlaying) => {
    const button = find("[data-play]");
    button.dataset.playing = isPlaying;
    find("[data-play-name]").textContent = isPlaying ? "Pause" : "Play";
    button.setAttribute("aria-label", isPlaying ? "Pause" : "Play");
  },
);

// Whether a place of an earlier view is one of this view too.
function exists(place) {
  const answer = place && view && view.answers[place.answer];
  if (!answer) return false;
  if (place.word === null) return isObject(answer);
  return Boolean(answer.words[place.word] && answer.words[place.word].box);
}

// The caption whose words' places are shown: the lit one, else the only one; -1 for none.
function currentCaption(lit) {
  const a = lit.length ? lit[0].answer : view.answers.length - 1;
  return (lit.length || a === 0) && !isObject(view.answers[a]) ? a : -1;
}

function tracedWords() {
  if (!view) return [];
  const hasTrace = (answer) => answer.words.some((word) => word.point);
  const a = exists(picked) && hasTrace(view.answers[picked.answer]) ? picked.answer : view.answers.findIndex(hasTrace);
  if (a < 0) return [];
  const words = view.answers[a].words.map(({ point, box }, w) => ({ answer: a, word: w, point, box }));
  return words.filter(({ point, box }) => point && box);
}

function newestWord() {
  if (!view || !view.writing) return null;
  const a = view.answers.length - 1;
  for (let w = a < 0 ? -1 : view.answers[a].words.length - 1; w >= 0; w--) {
    if (view.answers[a].words[w].box) return { answer: a, word: w };
  }
  return null;
}

function lightNow() {
  if (exists(played)) return [played];
  const there = pointed.filter(exists);
  if (there.length) return there;
  if (exists(picked)) return [picked];
  const newest = newestWord();
  return newest ? [newest] : [];
}

// Draws only what has changed: a glow that stays must not flicker while words are added.
function light() {
  const lit = view ? lightNow() : [];
  list.light(lit, picked);
  if (!view) return;
  const current = currentCaption(lit);
  const wantedView = `${version} ${current}`;
  if (wantedView !== drawnView) stage.drawView(view, current);
  drawnView = wantedView;
  const wordOf = ({ answer, word }) => (word === null ? version : view.answers[answer].words[word]);
  const wantedGlow = JSON.stringify(lit.map((place) => [place.answer, place.word, wordOf(place)]));
  if (wantedGlow !== drawnGlow) {
    stage.drawGlow(view, lit);
    find(".lv-detail").textContent = lit.length ? detail(lit[0]) : "";
  }
  drawnGlow = wantedGlow;
}

function detail({ answer: a, word: w }) {
  const answer = view.answers[a];
  const box = (w === null ? objectBox(answer) : answer.words[w].box).map(Math.round);
  const [x, y] = (w === null ? centre(box) : answer.words[w].point).map(Math.round);
  const text = w === null ? `${a + 1}  ${answer.text}` : `${wordNumber(answer, w)}  ${answer.words[w].text}`.trim();
  const score = percent(w === null ? answer.score : answer.words[w].score);
  const spread = w === null ? null : answer.words[w].spread; // of the four sides; shown as one
  const off = spread ? ` ± ${Math.round(spread.reduce((sum, one) => sum + one) / 4)}` : "";
  const parts = [text, `centre ${x}, ${y}`, `box ${box[0]}, ${box[1]} – ${box[2]}, ${box[3]}${off}`, score];
  return parts.filter(Boolean).join("  ·  ");
}

function point(places) {
  pointed = places;
  light();
}

function pick(place) {
  const isSame = picked && place && picked.answer === place.answer && picked.word === place.word;
  picked = isSame ? null : place;
  light();
}

// PointingGame at the image.
const marginOf = (event) => (event.pointerType === "touch" ? 16 : 7) * stage.unit;
const thereAt = (event) =>
  view && isOnImage(stage.overlay, event.clientX, event.clientY, view.size)
    ? whatIsAt(view, drawing.toImage(event), marginOf(event))
    : [];
stage.overlay.addEventListener("pointermove", (event) => {
  if (drawing.tool !== "look" || event.pointerType === "touch") return;
  const places = thereAt(event);
  point(places);
  if (places.length) list.reveal(places[0]);
});
stage.overlay.addEventListener("pointerleave", (event) => event.pointerType !== "touch" && point([]));
stage.overlay.addEventListener("click", (event) => {
  if (drawing.tool !== "look") return;
  const [place] = thereAt(event);
  picked = null;
  pick(place || null);
  if (place) list.reveal(place);
});

root.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (playback.playing || played) playback.stop();
  pointed = [];
  pick(null);
});

const tools = [...root.querySelectorAll("[data-tool]")];
for (const button of tools) {
  button.addEventListener("click", () => {
    for (const other of tools) other.setAttribute("aria-pressed", String(other === button));
    drawing.setTool(button.dataset.tool);
    point([]);
  });
}
find("[data-places]").addEventListener("click", (event) => {
  const isOn = event.currentTarget.getAttribute("aria-pressed") !== "true";
  event.currentTarget.setAttribute("aria-pressed", String(isOn));
  stage.overlay.classList.toggle("lv-no-places", !isOn);
});
find("[data-play]").addEventListener("click", () => playback.toggle());

function note() {
  if (view.writing) return view.answers.length ? "" : "Looking at the image…";
  if (view.left_out) return `${view.left_out} more are not shown here.`;
  return view.task === "dense" && !view.answers.length ? "Nothing was found." : "";
}

// An answer that begins above or below what is seen, as on a phone when the options asked for it.
function bringIntoSight() {
  const { top, bottom } = find(".lv-stage").getBoundingClientRect();
  if (top >= 0 && bottom <= window.innerHeight) return;
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  root.scrollIntoView({ block: "start", behavior: calm ? "auto" : "smooth" });
}

function show() {
  const given = props.value;
  const isMoreOfTheSame = Boolean(view && view.writing); // else places of earlier answers mean nothing
  view = given && given.image ? given : null;
  version += 1;
  root.dataset.list = view && view.answers.some(isObject) ? "objects" : "captions";
  root.dataset.state = view ? (view.writing ? "writing" : "ready") : "empty";
  find(".lv-placeholder").textContent = view ? "" : props.placeholder || "";
  for (const button of root.querySelectorAll(".lv-button")) button.disabled = !view;
  if (!view) {
    playback.stop();
    list.show({ answers: [], writing: false });
    spoken.say(null);
    find(".lv-note").textContent = "";
    light();
    return;
  }
  if (isShown && !isMoreOfTheSame && (view.writing || view.answers.length)) bringIntoSight();
  if (!isMoreOfTheSame || stage.image.getAttribute("src") !== view.image) {
    [pointed, picked, drawnGlow] = [[], null, ""];
    if (playback.playing || played) playback.stop();
  }
  drawing.settle();
  stage.show(view);
  stage.image.alt = view.answers.map((answer) => answer.text).join("; ") || "The image";
  stage.overlay.setAttribute("aria-label", `Places of ${view.answers.length} answers in the image`);
  list.show(view);
  spoken.say(view);
  find("[data-play]").disabled = !tracedWords().length;
  find(".lv-note").textContent = note();
  light();
}

drawing.setTool("look");
watch("value", show);
show();
isShown = true;
