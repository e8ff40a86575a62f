// Files that the page makes: WAV, and a ZIP of what was kept.

export const RATE = 16000;

/** A WAV of samples (Float32Array, mono, 16 kHz), 16 bits each. */
export function wav(samples) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, word) => [...word].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true);
  view.setUint32(24, RATE, true);
  view.setUint32(28, 2 * RATE, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  new Uint8Array(view.buffer, 44).set(new Uint8Array(pcm(samples).buffer));
  return new Blob([view.buffer], { type: "audio/wav" });
}

/** Samples as 16-bit integers; every machine that browsers run on stores them little-endian. */
export function pcm(samples) {
  return Int16Array.from(samples, (x) => Math.max(-32768, Math.min(32767, Math.round(32768 * x))));
}

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/** A ZIP of files, not compressed: `files` is a list of [name, Blob or text]. */
export async function zip(files) {
  const parts = [];
  const directory = [];
  let at = 0;
  for (const [name, content] of files) {
    const bytes = new Uint8Array(await new Blob([content]).arrayBuffer());
    const named = new TextEncoder().encode(name);
    const fields = new DataView(new ArrayBuffer(26)); // that both headers have
    fields.setUint16(0, 20, true);
    fields.setUint16(2, 0x0800, true); // names are UTF-8
    fields.setUint16(8, 0x21, true); // the date, 1980: DOS knows no earlier one
    fields.setUint32(10, crc32(bytes), true);
    fields.setUint32(14, bytes.length, true);
    fields.setUint32(18, bytes.length, true);
    fields.setUint16(22, named.length, true);
    const entry = new DataView(new ArrayBuffer(14));
    entry.setUint32(10, at, true);
    parts.push("PK\x03\x04", fields, named, bytes);
    directory.push("PK\x01\x02\x14\x00", fields, entry, named);
    at += 30 + named.length + bytes.length;
  }
  const listed = new Blob(directory);
  const end = new DataView(new ArrayBuffer(18));
  end.setUint16(4, files.length, true);
  end.setUint16(6, files.length, true);
  end.setUint32(8, listed.size, true);
  end.setUint32(12, at, true);
  return new Blob([...parts, listed, "PK\x05\x06", end], { type: "application/zip" });
}

/** Let the person save a blob. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
