import { RATE, save, wav, zip } from "./files.js";
import * as kept from "./kept.js";
import { Microphone, Turn } from "./live.js";
import { alternatives, clock, focusWord, make, replaceWord, show } from "./texts.js";

const $ = (id) => document.getElementById(id);
const TAIL_MS = 200; // heard after the button is released: the end of a word is not to be cut off
let takesVoices = false; // whether the server keeps models of single voices
const LONGEST_CLIP_S = 30; // Whisper hears no more at once, and trains on no more

// ---------------------------------------------------------------- settings, and the token

const token = () => sessionStorage.getItem("token") || "";

for (const id of ["ends", "compare"]) {
  const field = $(id);
  const stored = localStorage.getItem(id);
  if (stored !== null && field.type === "checkbox") field.checked = stored === "true";
  else if (stored !== null && [...field.options].some((o) => o.value === stored)) field.value = stored;
  field.addEventListener("change", () => {
    localStorage.setItem(id, field.type === "checkbox" ? field.checked : field.value);
  });
}
const modes = [...document.querySelectorAll("[name=mode]")];
const stored = localStorage.getItem("mode");
for (const one of modes) {
  if (one.value === stored) one.checked = true;
  one.addEventListener("change", showMode);
}
const mode = () => modes.find((one) => one.checked).value;
function showMode() {
  document.body.dataset.mode = mode();
  localStorage.setItem("mode", mode());
}
showMode();

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", $("token").value.trim());
  $("login").hidden = true;
  say("Try again now.");
  showVoices();
});
function askForToken() {
  $("login").hidden = false;
  $("token").focus();
}

async function call(path, fields, how = {}) {
  const body = fields && new FormData();
  for (const [name, value, file] of fields || []) body.append(name, value, ...(file ? [file] : []));
  const headers = token() ? { Authorization: `Bearer ${token()}` } : {};
  let answer;
  try {
    const method = fields ? "POST" : "GET";
    answer = await fetch(`/v1/hyperasr/${path}`, { method, body, headers, ...how });
  } catch (error) {
    if (error.name === "AbortError") throw new Error("it was stopped");
    throw new Error("the server does not answer; is it running?");
  }
  if (answer.ok) return answer;
  if (answer.status === 401) askForToken();
  const told = await answer.json().catch(() => null);
  throw new Error(told?.error?.message || `the server answers ${answer.status}`);
}

// ---------------------------------------------------------------- speaking

const talk = $("talk");
const microphone = new Microphone();
let turn = null; // that is spoken now
let starting = false;
let meter = null;
let nUtterances = 0;

const say = (text) => ($("status").textContent = text);
const holding = () => $("ends").value === "hold";
const LEVELS = [[0.05, "no sound"], [0.3, "quiet"], [0.95, "good"], [Infinity, "too loud"]];

function label() {
  talk.setAttribute("aria-pressed", String(Boolean(turn)));
  const ready = holding() ? "Hold to talk" : "Press to talk";
  const busy = holding() ? "Listening: let go to end" : "Listening: press to end";
  talk.textContent = turn ? busy : ready;
}
$("ends").addEventListener("change", label);
label();

function measure(samples) {
  let peak = 0;
  for (const x of samples) peak = Math.max(peak, Math.abs(x));
  // 0 is -60 dB, 1 is the loudest that can be recorded.
  const level = Math.max(0, 1 + Math.log10(peak + 1e-9) / 3);
  clearTimeout(meter);
  meter = setTimeout(() => loudness(0), 500);
  loudness(Math.max(level, $("loudness").value - 0.1));
}
function loudness(level) {
  $("loudness").value = level;
  const word = LEVELS.find(([most]) => level < most)[1];
  if ($("loudness-word").textContent !== word) $("loudness-word").textContent = word;
}

async function start() {
  if (turn || starting) return;
  starting = true;
  say("Opening the microphone …");
  try {
    await microphone.open();
  } catch (error) {
    starting = false;
    const denied = error.name === "NotAllowedError" || error.name === "NotFoundError";
    const why = denied ? "allow this page to use it, and look whether one is plugged in" : error.message;
    return say(`There is no microphone: ${why}.`);
  }
  const pause = holding() || $("ends").value === "again" ? "hold" : $("ends").value;
  const settings = { pause, format: "pcm" };
  if ($("compare").checked) settings.compare = true;
  if ($("voice").value) settings.model = $("voice").value;
  if (token()) settings.token = token();
  const one = new Turn(settings, {
    partial: (text) => turn === one && ($("partial").textContent = text),
    final: (event, samples) => {
      if (turn === one || !turn) $("partial").textContent = "";
      spoken(event, samples);
    },
    nothing: () => say("Nothing was heard."),
    problem: (message) => {
      if (turn === one && one.isOver) stop();
      if (message.includes("token")) askForToken();
      say(`It did not work: ${message}`);
    },
    over: () => turn || ($("partial").textContent = ""),
  });
  turn = one;
  microphone.onsound = (samples) => {
    measure(samples);
    one.hear(samples);
  };
  starting = false;
  say("Listening.");
  label();
  if (talk.released) stop(); // before the microphone was open
}

function stop() {
  const one = turn;
  if (!one) return;
  turn = null;
  label();
  if (!one.isOver) say("Writing …");
  setTimeout(() => {
    if (!turn) {
      microphone.onsound = null;
      microphone.closeSoon();
    }
    one.end();
  }, TAIL_MS);
}

// A press with the mouse, a finger, a key or a switch. Where the button is held, what presses it
// without holding (a screen reader, some switches) begins and ends with a press each.
function press() {
  talk.released = false;
  start();
}
function release() {
  talk.released = true;
  stop();
}
talk.addEventListener("pointerdown", (event) => {
  if (!holding() || event.button) return;
  talk.setPointerCapture(event.pointerId);
  talk.held = true;
  press();
});
for (const end of ["pointerup", "pointercancel"]) {
  talk.addEventListener(end, () => holding() && release());
}
talk.addEventListener("keydown", (event) => {
  if (!holding() || event.repeat || (event.key !== " " && event.key !== "Enter")) return;
  event.preventDefault();
  talk.held = true;
  press();
});
talk.addEventListener("keyup", (event) => {
  if (!holding() || (event.key !== " " && event.key !== "Enter")) return;
  event.preventDefault();
  release();
});
talk.addEventListener("blur", () => holding() && turn && release());
talk.addEventListener("contextmenu", (event) => holding() && event.preventDefault());
talk.addEventListener("click", () => {
  const held = talk.held;
  talk.held = false;
  if (held) return;
  talk.released = false;
  if (turn) stop();
  else start();
});

function spoken(event, samples) {
  nUtterances += 1;
  say(`Heard: ${event.text || "nothing"}`);
  const transcript = event.transcript;
  transcript.id = `spoken ${nUtterances}`;
  const name = `spoken ${nUtterances}`;
  addCard({ name, title: `Spoken ${nUtterances}. I heard:`, blob: wav(samples), transcript });
}

// ---------------------------------------------------------------- recordings

const queue = [];
let working = false;

$("files").addEventListener("change", (event) => {
  addFiles(event.target.files);
  event.target.value = "";
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") addFiles(event.dataTransfer.files);
  });
}

function addFiles(files) {
  // The newest is on top, but those that come together stand in their order.
  const cards = [...files].reverse().map((file) => addCard({ name: file.name, blob: file }));
  for (const card of cards) card.note("waits");
  queue.push(...cards.reverse());
  work();
}

async function work() {
  if (working) return;
  working = true;
  for (let card; (card = queue.shift()); ) {
    if (!card.removed) await transcribe(card);
  }
  working = false;
}

async function transcribe(card) {
  const seconds = await durationOf(card.blob);
  card.progress(0, seconds);
  try {
    const fields = [["file", card.blob, card.name], ["stream", "true"]];
    if ($("compare").checked) fields.push(["compare", "true"]);
    if ($("voice").value) fields.push(["model", $("voice").value]);
    const answer = await call("transcriptions", fields);
    for await (const event of events(answer)) {
      if (event.error) throw new Error(event.error.message);
      if (event.type === "segment") card.progress(event.segment.end_s, seconds);
      if (event.type === "done") card.done(event.transcript);
    }
    if (!card.transcript) throw new Error("the server broke off");
  } catch (error) {
    card.progress(null);
    card.problem(error.message);
  }
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (let part; !(part = await reader.read()).done; ) {
    const lines = (text + part.value).split("\n\n");
    text = lines.pop();
    for (const line of lines) yield JSON.parse(line.replace(/^data: /, ""));
  }
}

/** Length in seconds, or NaN where the browser cannot tell. */
function durationOf(blob) {
  return new Promise((resolve) => {
    const audio = new Audio();
    const tell = () => {
      URL.revokeObjectURL(audio.src);
      resolve(audio.duration);
    };
    audio.onloadedmetadata = audio.onerror = tell;
    audio.src = URL.createObjectURL(blob);
    setTimeout(tell, 5000);
  });
}

/** Samples of a file (Float32Array, mono, 16 kHz), where the browser can read it. */
async function samplesOf(blob) {
  const context = new OfflineAudioContext(1, 1, RATE);
  const sound = await context.decodeAudioData(await blob.arrayBuffer()); // resampled to its rate
  const mono = new Float32Array(sound.length);
  for (let channel = 0; channel < sound.numberOfChannels; channel++) {
    sound.getChannelData(channel).forEach((x, i) => (mono[i] += x / sound.numberOfChannels));
  }
  return mono;
}

// ---------------------------------------------------------------- cards

const player = new Audio();
function hear(blob, from = 0, to = Infinity) {
  URL.revokeObjectURL(player.src);
  player.src = URL.createObjectURL(blob);
  player.currentTime = from;
  player.ontimeupdate = () => player.currentTime > to && player.pause();
  player.play().catch(() => say("The browser cannot play this recording."));
}

function addCard({ name, title, blob, transcript }) {
  const item = $("card").content.firstElementChild.cloneNode(true);
  const part = (selector) => item.querySelector(selector);
  const note = part(".note");
  const bar = part("progress");
  bar.setAttribute("aria-label", `Progress of ${name}`);
  const card = {
    name,
    blob,
    removed: false,
    note: (text) => (note.textContent = text),
    problem(text) {
      note.textContent = `It did not work: ${text}`;
      note.classList.add("problem");
      part(".actions").hidden = false;
      for (const one of part(".actions").children) one.hidden = !one.matches(".remove");
    },
    progress(seconds, whole) {
      bar.hidden = seconds === null;
      if (bar.hidden) return;
      if (Number.isFinite(whole)) bar.value = Math.min(1, seconds / whole);
      const of = Number.isFinite(whole) ? ` of ${clock(whole)}` : "";
      card.note(seconds ? `${clock(seconds)}${of} written` : "is heard");
    },
    done(made) {
      card.transcript = made;
      bar.hidden = true;
      const long = made.duration_s > LONGEST_CLIP_S;
      const note = `Longer than ${LONGEST_CLIP_S} seconds: it cannot be kept as a clip.`;
      card.note([...made.warnings, ...(title && long ? [note] : [])].join(" "));
      card.draw();
      part(".actions").hidden = false;
      part(".question").hidden = !made.text || long;
    },
    draw(segment, index) {
      show(part(".texts"), card.transcript, (segment, index) => openWord(card, segment, index));
      if (segment) focusWord(part(".texts"), card.transcript.segments.indexOf(segment), index);
    },
  };
  part("h3").textContent = title || name;
  part(".hear").addEventListener("click", () => hear(blob));
  part(".remove").addEventListener("click", () => {
    card.removed = true;
    item.remove();
    $("nothing-said").hidden = $("said").childElementCount > 0;
    $("said-title").focus();
  });
  part(".download").addEventListener("click", () => download(card, part(".format").value));
  const form = part(".correction");
  const field = form.querySelector("textarea");
  const asking = (shown) => {
    form.hidden = shown;
    part(".question").hidden = !shown;
  };
  part(".yes").addEventListener("click", () => keepClip(card, card.transcript.text));
  part(".no").addEventListener("click", () => {
    field.value = card.transcript.text;
    asking(false);
    field.focus();
  });
  part(".cancel").addEventListener("click", () => {
    asking(true);
    part(".no").focus();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    await keepClip(card, field.value.trim());
    asking(true);
    part(".no").focus();
  });
  $("said").prepend(item);
  $("nothing-said").hidden = true;
  if (transcript) card.done(transcript);
  return card;
}

const SUFFIXES = { textgrid: "TextGrid", chat: "cha" };

async function download(card, format) {
  const { name, blob, transcript } = card;
  try {
    const fields = [
      ["transcript", new Blob([JSON.stringify(transcript)]), "transcript.json"],
      ["response_format", format],
      ["mode", mode()],
    ];
    if (format === "html") {
      card.note("The page is made; of a long recording that takes a while.");
      fields.push(["file", blob, name]);
    }
    const answer = await call("formats", fields);
    save(await answer.blob(), `${name.replace(/\.[^.]*$/, "")}.${SUFFIXES[format] || format}`);
    card.note("");
  } catch (error) {
    card.note(`It did not work: ${error.message}`);
  }
}

// ---------------------------------------------------------------- one word

const dialog = $("word-dialog");
let chosen = null;

function openWord(card, segment, index) {
  const word = segment.words[index];
  chosen = { card, segment, index, word };
  $("word-title").textContent = word.word;
  const sure = `${Math.round(100 * word.probability)} % sure`;
  $("word-sure").textContent = word.doubtful ? `doubtful: ${sure}` : sure;
  showOthers(card, word);
  $("word-new").value = word.word;
  dialog.returnValue = "";
  dialog.showModal();
  $("word-new").select();
}

async function showOthers(card, word) {
  $("word-others").replaceChildren();
  $("word-told").textContent = "";
  let heard = card.transcript.base ? [card.transcript.base] : [];
  if (word.doubtful && card.transcript.duration_s <= LONGEST_CLIP_S) {
    $("word-told").textContent = "Hearing it again for other words …";
    heard = [...heard, ...(await (card.others ??= hearAgain(card)))];
    if (chosen?.word !== word) return; // another one was chosen meanwhile
    $("word-told").textContent = "";
  }
  const others = alternatives(heard, word);
  if (others.length) $("word-told").textContent = "Or was it:";
  else if (word.doubtful) $("word-told").textContent = "No other word was found.";
  $("word-others").replaceChildren(
    ...others.map((text) => {
      const button = make("button", "", text);
      button.type = "button";
      button.addEventListener("click", () => {
        useWord(text);
        dialog.close();
      });
      return button;
    }),
  );
}

/** What a wider search and the unadapted recogniser make of a recording. */
async function hearAgain(card) {
  const fields = [["file", card.blob, card.name], ["compare", "true"], ["beam_size", "5"]];
  if ($("voice").value) fields.push(["model", $("voice").value]);
  try {
    const wide = await (await call("transcriptions", fields)).json();
    return [wide, wide.base];
  } catch {
    return []; // a model without adapters compares nothing
  }
}

$("word-hear").addEventListener("click", () => {
  const { card, segment, index } = chosen;
  const { start_s = segment.start_s, end_s = segment.end_s } = segment.words[index];
  hear(card.blob, Math.max(0, start_s - 0.15), end_s + 0.15);
});
$("word-new").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  dialog.close("use");
});
dialog.addEventListener("close", () => {
  if (dialog.returnValue === "use") useWord($("word-new").value.trim());
});

function useWord(text) {
  const { card, segment, index } = chosen;
  if (!text || text === segment.words[index].word) return;
  replaceWord(card.transcript, segment, index, text);
  card.draw(segment, index);
  card.note(`Changed to “${text}”.`);
}

// ---------------------------------------------------------------- kept clips

async function keepClip(card, text) {
  if (!text) return;
  try {
    const samples = await samplesOf(card.blob);
    card.keptAs = await kept.keep({
      ...(card.keptAs ? { id: card.keptAs } : {}),
      text,
      heard: card.transcript.text,
      language: card.transcript.language || "en",
      wav: wav(samples),
    });
    card.note(`Kept: “${text}”`);
  } catch {
    card.note("It could not be kept: the browser cannot read this recording, or has no room.");
  }
  await showKept();
}

async function showKept() {
  const clips = await kept.all();
  $("kept").replaceChildren(
    ...clips.map((clip) => {
      const item = make("li", "card");
      item.append(make("p", "text", clip.text));
      if (clip.heard !== clip.text) item.append(make("p", "note", `heard as: ${clip.heard}`));
      const buttons = make("p", "buttons");
      const listen = make("button", "", "Hear it");
      listen.addEventListener("click", () => hear(clip.wav));
      const away = make("button", "", "Delete");
      away.addEventListener("click", async () => {
        await kept.remove(clip.id);
        await showKept();
        $("kept-title").focus();
      });
      for (const button of [listen, away]) {
        button.type = "button";
        button.setAttribute("aria-label", `${button.textContent}: ${clip.text}`);
      }
      buttons.append(listen, away);
      item.append(buttons);
      return item;
    }),
  );
  $("nothing-kept").hidden = clips.length > 0;
  $("kept-buttons").hidden = !clips.length;
  $("voice-form").hidden = !(takesVoices && (clips.length || $("voice").value));
}

$("download-kept").addEventListener("click", async () => {
  const clips = await kept.all();
  const named = clips.map((clip) => [`clip-${String(clip.id).padStart(4, "0")}`, clip]);
  const rows = named.map(([id, { text, language }]) =>
    JSON.stringify({ id, path: `${id}.wav`, text, speaker: "me", cohort: "own", language,
      split: "train", source: "hyperasr page" }));
  const files = named.map(([id, clip]) => [`${id}.wav`, clip.wav]);
  save(await zip([["manifest.jsonl", `${rows.join("\n")}\n`], ...files]), "hyperasr-clips.zip");
});
$("delete-kept").addEventListener("click", async () => {
  if (!confirm("Delete all kept clips?")) return;
  await kept.clear();
  await showKept();
  $("kept-title").focus();
});

// ---------------------------------------------------------------- models of one voice

async function showVoices() {
  const about = await (await fetch("/health")).json();
  takesVoices = about.voices;
  if (takesVoices && (token() || !about.token)) {
    const { voices } = await (await call("voices")).json();
    const chosen = $("voice").value || localStorage.getItem("voice");
    const options = voices.map((name) => new Option(name, name, false, name === chosen));
    $("voice").replaceChildren($("voice").options[0], ...options);
    $("voice-row").hidden = !voices.length;
  }
  showDelete();
  await showKept();
}
function showDelete() {
  const name = $("voice").value;
  $("voice-delete").hidden = !name;
  $("voice-delete").textContent = `Delete the voice ${name}`;
}
$("voice").addEventListener("change", () => {
  localStorage.setItem("voice", $("voice").value);
  showDelete();
  showKept(); // without clips the form is there to delete the chosen voice
});

let training = null;
const told = (text) => ($("voice-told").textContent = text);

$("voice-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (training) return;
  training = new AbortController();
  $("voice-train").hidden = true;
  $("voice-stop").hidden = false;
  const name = $("voice-name").value;
  told(`The voice ${name} is trained. You can go on speaking meanwhile.`);
  try {
    const clips = await kept.all();
    const fields = clips.flatMap(({ wav, text }, i) => [["clips", wav, `${i}.wav`], ["texts", text]]);
    const answer = await call(`voices/${name}`, fields, { signal: training.signal });
    const made = await answer.json();
    if (made.written) localStorage.setItem("voice", name);
    await showVoices();
    if (made.written) $("voice").value = name;
    showDelete();
    told(`${made.told.join(". ")}. ${made.written ? `${name} is used from now on.` : ""}`);
  } catch (error) {
    told(`It did not work: ${error.message}`);
  }
  training = null;
  $("voice-train").hidden = false;
  $("voice-stop").hidden = true;
});
$("voice-stop").addEventListener("click", () => training?.abort());
$("voice-delete").addEventListener("click", async () => {
  const name = $("voice").value;
  if (!confirm(`Delete the voice ${name} from the server?`)) return;
  try {
    await call(`voices/${name}`, null, { method: "DELETE" });
    localStorage.removeItem("voice");
    $("voice").value = "";
    told(`${name} is deleted.`);
    await showVoices();
  } catch (error) {
    told(`It did not work: ${error.message}`);
  }
});

showVoices().catch(() => {}); // a server that does not answer is told of when it is needed
showKept().catch(() => ($("nothing-kept").textContent = "This browser keeps nothing here."));
