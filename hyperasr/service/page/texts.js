// A transcript on the page: its words as buttons, doubtful ones marked.

export const make = (tag, name, text) => {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
};

/** Cut a segment's text into [part, index of its word or null], as disfluency.py does. */
function pieces(segment, clean) {
  const text = clean ? segment.clean : segment.text;
  const edits = new Map(clean ? segment.edits.map((edit) => [edit.first, edit]) : []);
  const found = [];
  let at = 0;
  for (let index = 0; index < segment.words.length; ) {
    const edit = edits.get(index);
    const last = edit ? edit.last - 1 : index;
    const part = edit ? edit.replacement || "" : segment.words[index].word;
    const start = text.indexOf(part, at);
    if (start < 0) return [[text, null]];
    // A removed word hands its capital to the next one, or its full stop to the one before.
    const own = plain(part) === plain(segment.words[last].word) ? last : index;
    found.push([text.slice(at, start), null], [part, own]);
    at = start + part.length;
    index = last + 1;
  }
  return [...found, [text.slice(at), null]].filter(([part]) => part);
}

function textOf(segment, clean, language, onWord) {
  const paragraph = make("p", "text");
  paragraph.dir = "auto";
  paragraph.lang = language;
  for (const [part, index] of pieces(segment, clean)) {
    if (index === null) {
      paragraph.append(part);
      continue;
    }
    const { doubtful } = segment.words[index];
    const word = make("span", doubtful ? "word doubtful" : "word", part);
    if (doubtful) {
      const mark = make("sup", "mark", "?");
      mark.setAttribute("role", "img");
      mark.setAttribute("aria-label", " (doubtful)");
      word.append(mark);
    }
    if (onWord) {
      // Not <button>: text inside one cannot be selected and copied in every browser.
      word.setAttribute("role", "button");
      word.dataset.index = index;
      word.tabIndex = -1;
      word.addEventListener("click", () => getSelection().isCollapsed && onWord(index));
    }
    paragraph.append(word);
  }
  const first = paragraph.querySelector("[role=button]");
  if (first) first.tabIndex = 0; // one stop for the Tab key; the arrow keys go on from there
  return paragraph;
}

function systemOf(segment, name, language, onWord) {
  const system = make("div", segment.clean === undefined ? "system" : "system has-clean");
  for (const mode of segment.clean === undefined ? ["verbatim"] : ["verbatim", "clean"]) {
    const part = make("div", mode);
    const label = [name, segment.clean === undefined ? "" : mode].filter(Boolean).join(", ");
    if (label) part.append(make("p", "label", label));
    part.append(textOf(segment, mode === "clean", language, onWord));
    system.append(part);
  }
  for (const unclear of segment.unclear || []) {
    system.append(make("p", "note", `unclear: ${unclear.reason}`));
  }
  return system;
}

export function clock(seconds) {
  const s = Math.floor(seconds);
  const two = (n) => String(n).padStart(2, "0");
  const hours = Math.floor(s / 3600);
  const rest = `${Math.floor(s / 60) % 60}:${two(s % 60)}`;
  return hours ? `${hours}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}` : rest;
}

/** Show a transcript, and the unadapted one beside it; `onWord(segment, index)` for a chosen word. */
export function show(place, transcript, onWord) {
  place.replaceChildren();
  const several = transcript.segments.length > 1;
  transcript.segments.forEach((segment, number) => {
    const shown = make("div", "segment");
    if (several) shown.append(make("p", "label", clock(segment.start_s)));
    const columns = make("div", "columns");
    const base = transcript.base?.segments[number];
    const language = transcript.language || "en";
    if (base) columns.append(systemOf(base, "unadapted", language, null));
    columns.append(
      systemOf(segment, base ? "personalised" : "", language, (index) => onWord(segment, index)),
    );
    shown.append(columns);
    place.append(shown);
  });
  if (!transcript.segments.length) place.append(make("p", "soft", "Nobody speaks in it."));
}

/** Go back to a word that was shown anew. */
export function focusWord(place, segment, index) {
  const words = place.children[segment].querySelectorAll(`[data-index="${index}"]`);
  const word = [...words].find((one) => one.offsetParent);
  if (!word) return;
  for (const one of word.closest(".text").querySelectorAll("[role=button]")) one.tabIndex = -1;
  word.tabIndex = 0;
  word.focus();
}

const plain = (text) => text.toLowerCase().replace(/[^\p{L}\p{N}' ]/gu, "").trim();

/** What other transcripts of a recording have where a word was said: texts that differ from it. */
export function alternatives(transcripts, word) {
  if (word.start_s === undefined) return [];
  const found = new Map();
  for (const transcript of transcripts) {
    const said = transcript.segments
      .flatMap((segment) => segment.words)
      .filter((other) => overlap(other, word) > 0.3)
      .map((other) => other.word)
      .join(" ");
    if (plain(said) && plain(said) !== plain(word.word)) found.set(plain(said), said);
  }
  return [...found.values()];
}

/** How much of the shorter of two words lies in the other. */
function overlap(one, other) {
  const both = Math.min(one.end_s, other.end_s) - Math.max(one.start_s, other.start_s);
  return both / Math.min(one.end_s - one.start_s, other.end_s - other.start_s);
}

/** A new word with the capital or the full stop that an edit has given to the old one. */
function asEdited(text, old, shown) {
  const stop = /[.?!…]["'”’)]*$/;
  const given = stop.test(old) || stop.test(text) ? null : shown.match(stop);
  const ended = given ? text.replace(/[,;:-]*$/, given[0]) : text;
  return shown[0] === old[0] ? ended : ended[0].toUpperCase() + ended.slice(1);
}

/** Put another word in the place of one, in the texts as well. */
export function replaceWord(transcript, segment, index, text) {
  const parts = pieces(segment, false);
  if (!parts.some(([, at]) => at === index)) return;
  segment.text = parts.map(([part, at]) => (at === index ? text : part)).join("");
  if (segment.clean !== undefined) {
    const edit = segment.edits.find((one) => one.first <= index && index < one.last);
    const put = (part) => (edit ? asEdited(text, segment.words[index].word, part) : text);
    const clean = pieces(segment, true).map(([part, at]) => [at === index ? put(part) : part, at]);
    segment.clean = clean.map(([part]) => part).join("");
    const shown = clean.find(([, at]) => at === index);
    if (edit && shown) edit.replacement = shown[0];
  }
  Object.assign(segment.words[index], { word: text, probability: 1, doubtful: false });
  delete segment.words[index].uncertainty;
  const joined = (name) => transcript.segments.map((s) => s[name]).filter(Boolean).join(" ");
  transcript.text = joined("text");
  if (transcript.clean !== undefined) transcript.clean = joined("clean");
}

// Arrow keys go from word to word, Enter and the space bar choose one.
document.addEventListener("keydown", (event) => {
  const word = event.target.closest?.(".text [role=button]");
  if (!word || event.altKey || event.ctrlKey || event.metaKey) return;
  const words = [...word.closest(".text").querySelectorAll("[role=button]")];
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (step) {
    const next = words[words.indexOf(word) + step];
    if (next) {
      word.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    }
  } else if (event.key === "Enter" || event.key === " ") {
    word.click();
  } else {
    return;
  }
  event.preventDefault();
});
