"use strict";
// Without this the page is text below a player. Words become buttons here and not in the page:
// text inside <button> cannot be selected and copied in every browser.
(() => {
  const audio = document.querySelector("audio");
  if (!audio) return;
  const timed = [...document.querySelectorAll("[data-t]")];
  for (const one of timed) {
    one.setAttribute("role", "button");
    one.tabIndex = -1; // one stop for the Tab key; the arrow keys go on from there
  }
  for (const hidden of document.querySelectorAll("#keys, .speed")) hidden.hidden = false;
  for (const time of document.querySelectorAll(".time")) {
    time.setAttribute("aria-label", "Play from " + time.textContent);
  }

  let stop = null;
  const shown = (one) => one.offsetParent !== null;
  const makeStop = (one) => {
    if (stop) stop.tabIndex = -1;
    stop = one;
    if (stop) stop.tabIndex = 0;
  };
  makeStop(timed.find(shown));

  const play = (one) => {
    makeStop(one);
    audio.currentTime = Number(one.dataset.t);
    audio.play().catch(() => {}); // a pause that follows at once interrupts it
  };
  document.addEventListener("click", (event) => {
    const one = event.target.closest("[data-t]");
    if (one && getSelection().isCollapsed) play(one);
  });

  const step = (from, key) => {
    const there = timed.filter((one) => shown(one) || one === from);
    const forward = key === "ArrowRight" || key === "ArrowDown";
    const wanted = key === "ArrowUp" || key === "ArrowDown"
      ? (one) => one.classList.contains("time")
      : () => true;
    const at = there.indexOf(from);
    const rest = forward ? there.slice(at + 1) : there.slice(0, at).reverse();
    return rest.find(wanted);
  };
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Escape") return audio.pause();
    const one = event.target.closest("[data-t]");
    if (!one) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      play(one);
    } else if (event.key.startsWith("Arrow")) {
      event.preventDefault();
      const next = step(one, event.key);
      if (next) {
        makeStop(next);
        next.focus();
      }
    }
  });
  document.addEventListener("change", (event) => {
    if (event.target.name === "mode" && !(stop && shown(stop))) makeStop(timed.find(shown));
    if (event.target.closest(".speed")) audio.playbackRate = Number(event.target.value);
  });
  audio.addEventListener("error", () => {
    const note = document.createElement("p");
    note.className = "note";
    note.setAttribute("role", "alert");
    note.textContent = "This browser cannot play the sound of this page (Ogg Opus).";
    audio.after(note);
  });

  // Verbatim and clean, unadapted and personalised: each text follows the sound by itself.
  const texts = new Map();
  for (const word of document.querySelectorAll(".word[data-t]")) {
    const systems = [...word.closest(".segment").querySelectorAll(".system")];
    const key = systems.indexOf(word.closest(".system")) + word.closest(".verbatim, .clean").className;
    if (!texts.has(key)) texts.set(key, { words: [], now: null });
    texts.get(key).words.push({ element: word, start: Number(word.dataset.t), end: Number(word.dataset.e) });
  }
  const wordAt = (words, time) => {
    let low = 0;
    let high = words.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (words[middle].start <= time) low = middle + 1;
      else high = middle;
    }
    const word = words[low - 1];
    return word && time < word.end ? word.element : null;
  };
  const inView = (element) => {
    const { top, bottom } = element.getBoundingClientRect();
    return top >= 0 && bottom <= innerHeight;
  };
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const follow = () => {
    for (const text of texts.values()) {
      const next = wordAt(text.words, audio.currentTime + 0.005);
      if (next === text.now) continue;
      const last = text.now || text.last;
      if (text.now) text.now.classList.remove("now");
      if (next) {
        next.classList.add("now");
        // Whoever has scrolled away is not called back.
        if (!audio.paused && shown(next) && last && inView(last) && !inView(next)) {
          next.scrollIntoView({ block: "center", behavior: calm ? "auto" : "smooth" });
        }
        text.last = next;
      }
      text.now = next;
    }
    if (!audio.paused) requestAnimationFrame(follow);
  };
  audio.addEventListener("play", follow);
  for (const change of ["seeked", "pause", "ended"]) audio.addEventListener(change, follow);
})();
