// The microphone, and the WebSocket that its sound goes through.

import { RATE, pcm } from "./files.js";

const OPEN_S = 60; // the microphone stays open so long after use: opening it would cut off a start

/** The microphone: hands on samples (Float32Array, 16 kHz, 0.1 s each) while someone listens. */
export class Microphone {
  onsound = null;

  async open() {
    clearTimeout(this.closing);
    if (this.context) return;
    if (!navigator.mediaDevices) {
      throw new Error("this page is not secure: open it as localhost or by https for the microphone");
    }
    this.stream = await navigator.mediaDevices.getUserMedia({
      // What browsers do for telephony takes weak and halting speech for noise.
      audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true },
    });
    this.context = new AudioContext();
    await this.context.audioWorklet.addModule("microphone.js");
    const worklet = new AudioWorkletNode(this.context, "microphone", { numberOfOutputs: 0 });
    worklet.port.onmessage = ({ data }) => this.onsound?.(data);
    this.context.createMediaStreamSource(this.stream).connect(worklet);
    await this.context.resume();
  }

  closeSoon() {
    clearTimeout(this.closing);
    this.closing = setTimeout(() => this.close(), 1000 * OPEN_S);
  }

  close() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.context?.close();
    this.context = this.stream = null;
  }
}

/** One turn of speaking: from the first press to the last text of what was said. */
export class Turn {
  /**
   * `settings` are the first message; `on` has partial(text), final(event, samples), nothing(),
   * problem(message), after which it goes on unless `isOver`, and over().
   */
  constructor(settings, on) {
    this.on = on;
    this.heard = []; // samples from `dropped` on
    this.dropped = this.length = 0;
    this.waiting = [];
    this.ended = this.isOver = false;
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.socket = new WebSocket(`${scheme}://${location.host}/v1/hyperasr/live`);
    this.socket.onopen = () => this.socket.send(JSON.stringify(settings));
    this.socket.onmessage = ({ data }) => this.take(JSON.parse(data));
    this.socket.onclose = () => this.finish("the server has ended the connection");
  }

  /** Send samples. */
  hear(samples) {
    this.heard.push(samples);
    this.length += samples.length;
    this.send(pcm(samples));
  }

  /** Say that nothing more comes. */
  end() {
    if (this.ended) return;
    this.ended = true;
    this.send(JSON.stringify({ type: "end" }));
  }

  send(message) {
    if (this.waiting) this.waiting.push(message);
    else if (this.socket.readyState === WebSocket.OPEN) this.socket.send(message);
  }

  take(event) {
    if (event.type === "ready") {
      const waiting = this.waiting;
      this.waiting = null;
      waiting.forEach((message) => this.send(message));
    } else if (event.type === "partial") {
      this.on.partial(event.text);
    } else if (event.type === "final") {
      this.on.final(event, this.cut(event.start_s, event.transcript.duration_s));
    } else if (event.type === "nothing") {
      this.on.nothing();
    } else if (event.type === "answered") {
      this.finish();
    } else if (event.type === "error" && event.utterance === undefined) {
      this.finish(event.error.message);
    } else if (event.type === "error") {
      this.on.problem(event.error.message);
    }
  }

  /** The samples of an utterance; what comes before it is not needed any more. */
  cut(startS, seconds) {
    const all = new Float32Array(this.length - this.dropped);
    let at = 0;
    for (const part of this.heard) {
      all.set(part, at);
      at += part.length;
    }
    const start = Math.max(0, Math.round(startS * RATE) - this.dropped);
    const stop = Math.min(all.length, start + Math.round(seconds * RATE));
    this.heard = [all.slice(stop)];
    this.dropped += stop;
    return all.slice(start, stop);
  }

  finish(problem) {
    if (this.isOver) return;
    this.isOver = true;
    this.socket.onclose = null;
    this.socket.close();
    if (problem) this.on.problem(problem);
    this.on.over();
  }
}
