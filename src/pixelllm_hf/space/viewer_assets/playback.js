// The trace as a moving pointer: it goes from word to word in reading order.

const MOVE_MS = 420; // from one place to the next
const REST_MS = 260; // there

class Playback {
  // words(): [{answer, word, point}] in reading order; onStep(place or null); onState(isPlaying).
  constructor(stage, words, onStep, onState) {
    Object.assign(this, { stage, words, onStep, onState, playing: false, time: 0, step: -1 });
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  play() {
    this.playing = true;
    this.onState(true);
    let before = null; // a frame's time may lie before the click
    const tick = (now) => {
      if (!this.playing) return;
      if (!this.stage.overlay.isConnected) return this.stop();
      this.time += before === null ? 0 : Math.min(now - before, 200); // a page in the background goes on where it was
      before = now;
      if (this.draw()) requestAnimationFrame(tick);
      else this.stop();
    };
    requestAnimationFrame(tick);
  }

  pause() {
    this.playing = false;
    this.onState(false);
  }

  stop() {
    this.pause();
    Object.assign(this, { time: 0, step: -1 });
    this.stage.drawPointer(null);
    this.onStep(null);
  }

  // The pointer for `time`; false when the last word is over.
  draw() {
    const words = this.words();
    const step = Math.floor(this.time / (MOVE_MS + REST_MS));
    if (step >= words.length) return false;
    if (step !== this.step) {
      this.step = step;
      this.onStep(words[step]);
    }
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const share = still || step === 0 ? 1 : clamp((this.time % (MOVE_MS + REST_MS)) / MOVE_MS, 0, 1);
    const eased = share * share * (3 - 2 * share);
    const [x0, y0] = words[Math.max(step - 1, 0)].point;
    const [x1, y1] = words[step].point;
    const trail = words.slice(0, step).map((word) => word.point);
    this.stage.drawPointer([x0 + (x1 - x0) * eased, y0 + (y1 - y0) * eased], trail);
    return true;
  }
}
