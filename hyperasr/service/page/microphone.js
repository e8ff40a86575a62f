// Runs beside the page: sound of the microphone, at whatever rate, to 16 kHz.
// A windowed sinc takes what is above 8 kHz away first, which would else fold back into speech.
const RATE = 16000;
const ZEROS = 16; // zero crossings on each side
const SEND = 1600; // samples handed on at once, 0.1 s

class Microphone extends AudioWorkletProcessor {
  constructor() {
    super();
    this.step = sampleRate / RATE;
    this.cut = Math.min(1, 1 / this.step); // of the input's band
    this.half = Math.ceil(ZEROS / this.cut);
    this.input = new Float32Array(this.half);
    this.at = this.half; // of the next output, in samples of `input`
    this.output = new Float32Array(SEND);
    this.n = 0;
  }

  weight(x) {
    if (Math.abs(x) >= this.half) return 0;
    const window = 0.5 + 0.5 * Math.cos((Math.PI * x) / this.half);
    const y = Math.PI * this.cut * x;
    return this.cut * window * (x === 0 ? 1 : Math.sin(y) / y);
  }

  put(sample) {
    this.output[this.n++] = sample;
    if (this.n === SEND) {
      this.port.postMessage(this.output.slice());
      this.n = 0;
    }
  }

  process([channels]) {
    const sound = channels[0];
    if (!sound) return true;
    const input = new Float32Array(this.input.length + sound.length);
    input.set(this.input);
    input.set(sound, this.input.length);
    for (; this.at + this.half < input.length; this.at += this.step) {
      let sum = 0;
      const first = Math.ceil(this.at - this.half);
      for (let i = Math.max(first, 0); i <= this.at + this.half; i++) {
        sum += input[i] * this.weight(i - this.at);
      }
      this.put(sum);
    }
    const used = Math.max(0, Math.floor(this.at - this.half));
    this.input = input.slice(used);
    this.at -= used;
    return true;
  }
}

registerProcessor("microphone", Microphone);
