"""Any recording in, one waveform and one log-mel out; bad input is one clear line."""

from __future__ import annotations

import os
import struct
import threading
import tracemalloc
import warnings
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import soxr
import torch

import hyperasr  # noqa: F401  (before transformers)
from hyperasr.audio import container, mel
from hyperasr.audio import reading as audio
from hyperasr.audio.loudness import (
    _active_level_dbfs,
    audible,
    content_hash,
    frame_levels_dbfs,
)
from hyperasr.audio.mel import log_mel, log_mel_batch
from hyperasr.errors import AudioError

RATE = mel.SAMPLE_RATE
CASES = Path(__file__).parents[3] / "shared" / "cases" / "audio"


def tone(duration_s: float = 1.0, rate: int = RATE, hz: float = 440.0) -> np.ndarray:
    time_s = np.arange(round(duration_s * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * hz * time_s)).astype(np.float32)


def noise(n_samples: int, level_dbfs: float = -20.0, seed: int = 0) -> np.ndarray:
    white = np.random.default_rng(seed).standard_normal(n_samples)
    return (white * 10 ** (level_dbfs / 20)).astype(np.float32)


def syllables(duration_s: float = 3.0, level_dbfs: float = -20.0) -> np.ndarray:
    """A pitched sound that comes and goes three times a second; the level is that of its RMS."""
    time_s = np.arange(round(duration_s * RATE)) / RATE
    voice = sum(np.sin(2 * np.pi * 120 * k * time_s) / k for k in range(1, 20))
    voice *= np.maximum(0.0, np.sin(2 * np.pi * 3 * time_s)) ** 2
    return (voice / voice.std() * 10 ** (level_dbfs / 20)).astype(np.float32)


def active_level_dbfs(waveform: np.ndarray) -> float:
    return _active_level_dbfs(frame_levels_dbfs(waveform))


def write(path: Path, samples: np.ndarray, rate: int = RATE, **options: str) -> Path:
    soundfile.write(path, samples, rate, **options)
    return path


def patch(path: Path, offset: int, value: int) -> Path:
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, offset, value)
    path.write_bytes(content)
    return path


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# --- constants ---------------------------------------------------------------------------------


def test_constants_fit_each_other_and_whisper():
    transformers = pytest.importorskip("transformers")
    extractor = transformers.WhisperFeatureExtractor()
    assert mel.SAMPLE_RATE == extractor.sampling_rate
    assert mel.N_FFT == extractor.n_fft
    assert mel.HOP_LENGTH == extractor.hop_length
    assert mel.CHUNK_S == extractor.chunk_length
    assert mel.N_SAMPLES == extractor.n_samples
    assert mel.FRAMES_PER_SECOND == 100
    assert mel.STATES_PER_SECOND == 50


# --- load: formats -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("a.wav", {"subtype": "PCM_16"}, 1e-4),
        ("a.wav", {"subtype": "PCM_U8"}, 1e-2),
        ("a.wav", {"subtype": "PCM_24"}, 1e-6),
        ("a.wav", {"subtype": "PCM_32"}, 1e-7),
        ("a.wav", {"subtype": "FLOAT"}, 0.0),
        ("a.wav", {"subtype": "DOUBLE"}, 0.0),
        ("a.wav", {"subtype": "ULAW"}, 2e-2),
        ("a.wav", {"format": "WAVEX", "subtype": "PCM_16"}, 1e-4),
        ("a.flac", {"subtype": "PCM_24"}, 1e-6),
        ("a.ogg", {"subtype": "VORBIS"}, 5e-2),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}, 5e-2),
        ("a.mp3", {"format": "MP3"}, 5e-2),
        ("a.sph", {"format": "NIST", "subtype": "PCM_16"}, 1e-4),
        ("a.sph", {"format": "NIST", "subtype": "ULAW"}, 2e-2),
        ("a.aiff", {"subtype": "PCM_16"}, 1e-4),
        ("a.au", {"subtype": "PCM_16"}, 1e-4),
    ],
)
def test_every_format_gives_the_same_waveform(tmp_path, name, options, tolerance):
    expected = tone()
    waveform = audio.load(write(tmp_path / name, expected, **options))
    assert waveform.dtype == np.float32
    assert waveform.shape == expected.shape
    # The last samples of an Opus stream lack the packet that would have completed them.
    n_compared = RATE - 100 if options.get("subtype") == "OPUS" else RATE
    assert np.abs(waveform - expected)[:n_compared].max() <= tolerance
    assert audio.duration_s(tmp_path / name) == pytest.approx(1.0)


def test_content_counts_and_not_the_name(tmp_path):
    write(tmp_path / "riff.wav", tone())
    for name in ("riff.flac", "riff.mp3", "riff.vox", "riff"):
        (tmp_path / name).write_bytes((tmp_path / "riff.wav").read_bytes())
        assert np.array_equal(audio.load(tmp_path / name), audio.load(tmp_path / "riff.wav"))


@pytest.mark.parametrize("rate", [4_000, 8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_every_rate_gives_the_same_tone(tmp_path, rate):
    path = write(tmp_path / "a.wav", tone(rate=rate), rate, subtype="FLOAT")
    waveform = audio.load(path)
    assert waveform.shape == (RATE,)
    inner = slice(RATE // 10, -RATE // 10)  # a resampler rings at the ends
    assert np.abs(waveform - tone())[inner].max() < 1e-3
    assert audio.duration_s(path) == pytest.approx(1.0)


def test_resampling_leaves_no_alias(tmp_path):
    waveform = audio.load(write(tmp_path / "a.wav", tone(rate=48_000, hz=11_000), 48_000))
    assert np.abs(waveform)[1600:-1600].max() < 1e-4


def test_ten_milliseconds_go_all_the_way(tmp_path):
    waveform = audio.load(write(tmp_path / "a.wav", tone(0.01)))
    assert waveform.shape == (160,)
    assert len(waveform) < mel.MIN_SAMPLES
    assert log_mel(waveform).shape == (80, 1)
    assert audible(waveform).shape == (160,)
    assert audible(waveform) is not None
    assert audible(np.zeros(160, np.float32)) is None
    # 1 sample as well
    assert audible(waveform[:1]) is None
    assert log_mel(waveform[:1]).isfinite().all()


# --- load: parts -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.sph"])
def test_a_part_is_the_part_of_the_whole(tmp_path, name):
    options = {"format": "NIST"} if name.endswith("sph") else {}
    path = write(tmp_path / name, noise(3 * RATE), **options)
    whole = audio.load(path)
    assert np.array_equal(audio.load(path, start_s=0.5, end_s=1.25), whole[8_000:20_000])
    assert np.array_equal(audio.load(path, start_s=2.0), whole[32_000:])
    assert np.array_equal(audio.load(path, end_s=99.0), whole)


def test_a_part_of_an_mp3(tmp_path):
    path = write(tmp_path / "a.mp3", noise(6 * RATE), format="MP3")
    whole = audio.load(path)
    part = audio.load(path, start_s=2.5, end_s=4.0)
    assert part.shape == (24_000,)
    assert np.abs(part - whole[40_000:64_000])[2_000:].max() < 1e-3


def test_only_the_part_is_read(tmp_path):
    """The damage is outside of the part, so nothing is raised, and NaN in it is noticed."""
    samples = tone(3.0)
    samples[40_000] = np.nan
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    assert len(audio.load(path, end_s=2.0)) == 2 * RATE
    with pytest.raises(AudioError, match=r"NaN.*2\.500 s"):
        audio.load(path, start_s=2.0)


@pytest.mark.parametrize(
    ("start_s", "end_s"), [(-1.0, None), (2.0, 1.0), (0.5, 0.5), (float("nan"), None), (5.0, 6.0)]
)
def test_impossible_parts(tmp_path, start_s, end_s):
    path = write(tmp_path / "a.wav", tone())
    with pytest.raises(AudioError, match="no part"):
        audio.load(path, start_s=start_s, end_s=end_s)


# --- load: what cannot be read -----------------------------------------------------------------


def test_missing_folder_and_empty(tmp_path):
    with pytest.raises(AudioError, match="no file"):
        audio.load(tmp_path / "nothing.wav")
    with pytest.raises(AudioError, match="folder"):
        audio.load(tmp_path)
    (tmp_path / "empty.wav").touch()
    with pytest.raises(AudioError, match="empty"):
        audio.load(tmp_path / "empty.wav")
    write(tmp_path / "none.wav", np.zeros(0, np.float32))
    for read in (audio.load, audio.duration_s):
        with pytest.raises(AudioError, match="no samples"):
            read(tmp_path / "none.wav")


@pytest.mark.parametrize("suffix", ["wav", "mp3", "vox", "flac"])
@pytest.mark.parametrize(
    "content",
    [b"hello, this is text\n" * 50, "größer ".encode() * 800, "text".encode("utf-16") * 50],
)
def test_text_is_refused_whatever_its_name(tmp_path, suffix, content):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    with pytest.raises(AudioError, match="is text") as error:
        audio.load(path)
    one_line(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bytes(range(256)) * 8, "no audio that is known"),
        (bytes(4000), "no audio that is known"),
        (np.random.default_rng(0).bytes(50_000), "no audio that is known"),
        (b"\0\0\0\x20ftypM4A \0\0\0\0" * 40, "no audio that is known"),
        (b"RIFF\x10\0\0\0AVI LIST" + bytes(400), "no audio that is known"),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://example.org/a.mp3\n", "is text"),
        (b"NIST_1A\n   1024\nsample_coding -s26 pcm,embedded-shorten-v2.00\n", "sph2pipe"),
    ],
)
def test_what_is_no_recording(tmp_path, content, message, capfd):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(AudioError, match=message) as error:
        audio.load(path)
    assert str(path) in one_line(error)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.sph"])
@pytest.mark.parametrize("n_bytes", [3, 8, 14, 30])
def test_truncated_headers(tmp_path, name, n_bytes):
    options = {"format": "NIST"} if name.endswith("sph") else {}
    path = write(tmp_path / name, tone(), **options)
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(AudioError) as error:
        audio.load(path)
    assert name in one_line(error)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("n_channels", [1, 2])
def test_samples_that_are_no_numbers(tmp_path, value, n_channels):
    samples = np.repeat(tone()[:, None], n_channels, axis=1)
    samples[8_000, 0] = value
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    for read in (lambda: audio.load(path), lambda: audio.from_array(samples, RATE)):
        with pytest.raises(AudioError, match=r"NaN, infinite.*0\.500 s"):
            read()


# --- load: what is damaged and still read ------------------------------------------------------


@pytest.mark.parametrize("offset", [4, 40], ids=["riff", "data"])
@pytest.mark.parametrize("size", [0, 1, 100, 2 * 10**9, 2**31 - 1, 2**32 - 1])
@pytest.mark.parametrize("n_ahead", [0, 9_000])
def test_wav_headers_that_lie_about_the_length(tmp_path, offset, size, n_ahead, caplog):
    """Also behind a large chunk of other data."""
    path = write(tmp_path / "a.wav", noise(RATE))
    honest = audio.load(path)
    patch(path, offset, size)
    if n_ahead:
        content = path.read_bytes()
        ahead = b"bext" + struct.pack("<I", n_ahead) + bytes(n_ahead)
        path.write_bytes(content[:36] + ahead + content[36:])
    assert np.array_equal(audio.load(path), honest)
    assert audio.duration_s(path) == pytest.approx(1.0)
    assert "breaks off" not in caplog.text


@pytest.mark.parametrize("more", [b"LIST" + struct.pack("<I", 400) + bytes(400), bytes(20)])
def test_what_follows_the_sound_is_not_sound(tmp_path, more, caplog):
    path = write(tmp_path / "a.wav", noise(RATE))
    honest = audio.load(path)
    path.write_bytes(path.read_bytes() + more)
    assert np.array_equal(audio.load(path), honest)
    assert not caplog.records


@pytest.mark.parametrize(
    "name", ["a.wav", "a.rf64", "a.w64", "a.flac", "a.mp3", "a.sph", "a.ogg", "a.aiff", "a.au"]
)
def test_a_file_that_breaks_off_gives_its_beginning(tmp_path, name, caplog):
    options = {"format": "NIST"} if name.endswith("sph") else {}
    # A long FLAC, to break off in the second block that is read.
    path = write(tmp_path / name, noise((40 if name == "a.flac" else 12) * RATE), **options)
    whole = audio.load(path)
    assert not caplog.records
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    # Of a part that is there, nothing is missing.
    assert len(audio.load(path, start_s=0.5, end_s=1.0)) == RATE // 2
    assert not caplog.records
    rest = audio.load(path)
    (message,) = caplog.messages
    assert ("is damaged after" if name == "a.flac" else "breaks off after") in message
    assert name in ("a.flac", "a.ogg") or " s of 12.0" in message
    assert 0.4 < len(rest) / len(whole) < 0.6
    # The last block of a lossy coding lacks what overlaps it.
    assert np.abs(rest - whole[: len(rest)])[:-4_096].max() < 1e-6


def test_a_flac_damaged_in_the_middle_gives_its_beginning(tmp_path, caplog):
    path = write(tmp_path / "private name.flac", noise(4 * RATE))
    whole = audio.load(path)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 500] = b"\xaa" * 500
    path.write_bytes(content)
    rest = audio.load(path)
    assert 1.5 * RATE < len(rest) <= 2 * RATE
    assert np.array_equal(rest, whole[: len(rest)])
    assert "damaged" in caplog.text
    assert "private" not in caplog.text


def test_a_flac_of_unknown_length(tmp_path, caplog):
    path = write(tmp_path / "a.flac", noise(2 * RATE))
    whole = audio.load(path)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the 36 bits of STREAMINFO that hold the number of samples
    content[22:26] = bytes(4)
    path.write_bytes(content)
    streamed = audio.load(path)
    assert len(whole) - 64 <= len(streamed) <= len(whole)
    assert np.array_equal(streamed, whole[: len(streamed)])
    assert audio.duration_s(path) == pytest.approx(2.0, abs=0.01)
    assert not caplog.records


def test_an_mp3_of_variable_bit_rate_without_length_is_read_to_its_end(tmp_path):
    """The decoder's own estimate, from the first frames, would stop far too early or too late."""
    samples = np.concatenate([noise(5 * RATE, -70), noise(5 * RATE, -10)])
    path = write(tmp_path / "a.mp3", samples, format="MP3", bitrate_mode="VARIABLE")
    content = path.read_bytes()
    second_frame = content.find(content[:2], 4)
    path.write_bytes(content[second_frame:])
    assert soundfile.info(path).frames != pytest.approx(len(samples), rel=0.05)
    waveform = audio.load(path)
    assert len(waveform) == pytest.approx(len(samples), abs=2_400)
    assert audio.duration_s(path) == pytest.approx(10.0, abs=0.15)
    assert np.array_equal(audio.load(path, start_s=6.0, end_s=7.0), waveform[96_000:112_000])


@pytest.mark.parametrize(
    ("name", "n_samples", "said"),
    [
        ("a.m4a", 35_656, ""),
        ("a.mp4", 35_656, ""),
        ("a.webm", 35_725, ""),  # FFmpeg leaves 4 ms of the coder's delay in it
        ("bext9000_size0.wav", 35_656, "gives 0 bytes of sound"),
        ("bext9000_size35656.wav", 35_656, "gives 35656 bytes of sound"),
        ("fllr4090.wav", 35_656, "gives 0 bytes of sound"),
        ("size2e9.wav", 35_656, ""),
        ("cover_vbr_300k.mp3", 35_656, ""),
        # Without the tag that tells the coder's delay: 64 whole frames, and what is left of them.
        ("padt_10k.mp3", 64 * 576, ""),
        ("padt_50k.mp3", 64 * 576, ""),
        ("junk_lead.mp3", 64 * 576, ""),
        ("cut_1001.mp3", 59 * 576, ""),
        ("stereo_anti.wav", 35_656, "channel 0 alone"),
    ],
)
def test_damaged_and_unusual_files(name, n_samples, said, capfd):
    if not (CASES / name).exists():
        pytest.skip("the cases are not there")
    notes = []
    waveform = np.concatenate(list(audio.stream(CASES / name, chunk_s=30, warn=notes.append)))
    assert len(waveform) == n_samples
    assert said in "".join(notes)
    assert bool(notes) == bool(said)
    assert capfd.readouterr().err == ""
    assert audio.duration_s(CASES / name) == pytest.approx(n_samples / RATE, abs=0.01)
    # The sound itself, where it should be.
    spoken = audio.load(CASES.parent / "base.wav")[12_000:20_000]
    lag = np.correlate(waveform, spoken, "valid").argmax()
    expected = {"64": 1_105, "59": 1_105 - 5 * 576}.get(str(n_samples / 576)[:2], 0)
    assert lag - 12_000 == pytest.approx(expected, abs=70)


def encode(
    path: Path, codec: str, rate: int = RATE, tracks: int = 1, picture: bool = False
) -> Path:
    """Write 3 s of noise as FFmpeg does, in one or more sound tracks, after a picture."""
    options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(path, "w", options=options) as file:
        pictures = [file.add_stream("mpeg4", rate=5, width=32, height=32)] if picture else []
        streams = [file.add_stream(codec, rate=rate, layout="mono") for _ in range(tracks)]
        for stream in pictures:
            for number in range(10):
                image = av.VideoFrame(32, 32, "yuv420p")
                image.pts = number
                file.mux(stream.encode(image))
            file.mux(stream.encode(None))
        for number, stream in enumerate(streams):
            stream.bit_rate = 64_000
            context = stream.codec_context
            samples = (noise(3 * rate, seed=number)[None] * 2**15).clip(-(2**15), 2**15 - 1)
            frame = av.AudioFrame.from_ndarray(samples.astype(np.int16), "s16", "mono")
            frame.sample_rate, frame.pts = rate, 0
            fit = av.AudioResampler(context.format.name, "mono", rate, context.frame_size or None)
            for part in [*fit.resample(frame), *fit.resample(None)]:
                file.mux(stream.encode(part))
            file.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "rate", "n_padding", "tolerance"),
    [
        ("a.m4a", "aac", RATE, 0, 1e-6),
        ("a.mov", "alac", RATE, 0, 1e-6),
        ("a.wv", "wavpack", RATE, 0, 1e-6),
        ("a.webm", "libopus", 48_000, 0, 2.0),
        ("a.mkv", "aac", 44_100, 1_024, 2.0),
        ("a.mp2", "mp2", RATE, 1_152, 1e-3),
        ("a.wma", "wmav2", 44_100, 4_096, 2.0),
        ("a.avi", "libmp3lame", RATE, 1_728, 1e-6),
        ("a.aac", "aac", RATE, 2_048, 1e-6),
    ],
)
def test_what_soundfile_cannot_read(tmp_path, name, codec, rate, n_padding, tolerance, capfd):
    path = encode(tmp_path / name, codec, rate)
    whole = audio.load(path)
    assert -450 <= len(whole) - 3 * RATE <= n_padding, "FFmpeg's WMA lacks the last 28 ms"
    part = audio.load(path, start_s=1.5, end_s=2.5)
    assert part.shape == (RATE,)
    lag = np.correlate(whole[23_900:40_100], part, "valid").argmax() - 100
    assert abs(lag) <= (0 if tolerance < 1 else 16), "some formats round times to milliseconds"
    assert lag or np.abs(part - whole[24_000:40_000]).max() < tolerance
    with pytest.raises(AudioError):
        audio.load(path, start_s=9.0)
    assert capfd.readouterr().err == ""


def test_the_first_sound_track_of_a_video(tmp_path, caplog):
    path = encode(tmp_path / "a.mp4", "aac", tracks=2, picture=True)
    whole = audio.load(path)
    assert len(whole) == 3 * RATE
    assert np.corrcoef(whole, noise(3 * RATE, seed=0))[0, 1] > 0.5
    assert "2 sound tracks" in caplog.text
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    caplog.clear()
    assert 0.5 * RATE < len(audio.load(path)) < 2.5 * RATE
    assert "s of 3.00 s; copy" in caplog.text
    with pytest.raises(AudioError, match="no sound track"):
        audio.load(encode(tmp_path / "silent.mp4", "aac", tracks=0, picture=True))


def test_an_mp3_behind_padding_and_junk_and_damaged_within(tmp_path, caplog):
    content = write(tmp_path / "a.mp3", noise(4 * RATE), format="MP3").read_bytes()
    whole = audio.load(tmp_path / "a.mp3")
    assert len(whole) == 4 * RATE
    path = tmp_path / "b.mp3"
    path.write_bytes(b"ID3\3\0\0\0\3\x10\0" + bytes(3 * 2**14 + 2**11) + content)
    assert np.array_equal(audio.load(path), whole)
    path.write_bytes(bytes(745) + content)
    assert len(audio.load(path)) == pytest.approx(len(whole), abs=2_304)
    assert not caplog.records
    middle = len(content) // 2
    path.write_bytes(content[:middle] + b"\xaa" * 2_000 + content[middle + 2_000 :])
    assert 3 * RATE < len(audio.load(path)) < len(whole)
    (message,) = caplog.messages
    assert "damaged after 1.9" in message


@pytest.mark.parametrize(("rate", "n_channels"), [(RATE, 2), (24_000, 1), (48_000, 2)])
def test_an_mp3_that_changes_in_the_middle(tmp_path, rate, n_channels):
    first = write(tmp_path / "a.mp3", syllables(2.0), format="MP3").read_bytes()
    other = np.repeat(noise(2 * rate, -30.0)[:, None], n_channels, axis=1)
    second = write(tmp_path / "b.mp3", other, rate, format="MP3").read_bytes()
    path = tmp_path / "c.mp3"
    path.write_bytes(bytes(745) + first + second)
    heard = audio.load(path)
    assert len(heard) == pytest.approx(4 * RATE, abs=RATE // 4)
    # Louder where the first one is, and the second one as loud as it was written.
    assert heard[: 2 * RATE].std() > 2 * heard[-RATE:].std()
    assert heard[-RATE:].std() == pytest.approx(10 ** (-30 / 20), rel=0.4)


# --- pipes -------------------------------------------------------------------------------------


def test_a_pipe_is_read_once_and_whole(tmp_path, monkeypatch):
    path = write(tmp_path / "a.wav", noise(2 * RATE))
    pipe = tmp_path / "pipe.wav"
    os.mkfifo(pipe)
    with pytest.raises(AudioError, match="is a pipe or a device"):
        audio.load(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(path.read_bytes()))
    writer.start()
    content = container.read_pipe(pipe)
    writer.join()
    (piped,) = audio.stream("standard input", chunk_s=30, content=content)
    assert np.array_equal(piped, audio.load(path))
    monkeypatch.setattr(container, "_PIPE_BYTES", 10_000_000)
    with pytest.raises(AudioError, match="more than"):
        container.read_pipe("/dev/zero")
    with pytest.raises(AudioError, match="is empty"):
        next(audio.stream("-", chunk_s=1, content=container.read_pipe(os.devnull)))
    _, terminal = os.openpty()
    with pytest.raises(AudioError, match="is a terminal"):
        container.read_pipe(os.ttyname(terminal))


# --- channels that cancel ----------------------------------------------------------------------


def test_channels_that_cancel_leave_the_stronger_one(tmp_path, caplog):
    left = noise(30 * RATE)
    for right, strongest in ((-left, 0), (-1.2 * left, 1), (-0.95 * left + 0.01, 0)):
        channels = np.stack([left, right], axis=1).astype(np.float32)
        path = write(tmp_path / "a.wav", channels, subtype="FLOAT")
        caplog.clear()
        assert np.array_equal(audio.load(path), channels[:, strongest])
        assert [f"channel {strongest} alone" in r.message for r in caplog.records] == [True]
    assert np.array_equal(audio.from_array(np.stack([left, -left]), RATE), left)
    caplog.clear()
    other = noise(30 * RATE, seed=2)
    for right in (other, -0.5 * left, np.zeros_like(left)):
        channels = np.stack([left, right], axis=1).astype(np.float32)
        path = write(tmp_path / "a.wav", channels, subtype="FLOAT")
        assert np.array_equal(audio.load(path), channels.mean(axis=1, dtype=np.float32))
    assert not caplog.records


# --- from_array --------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_arrays_of_every_shape(make):
    stereo = np.stack([tone(), tone(hz=880)])
    expected = stereo.mean(axis=0)
    assert np.array_equal(audio.from_array(make(tone()), RATE), tone())
    assert np.array_equal(audio.from_array(make(tone()[None]), RATE), tone())
    assert np.array_equal(audio.from_array(make(tone()[:, None]), RATE), tone())
    assert np.allclose(audio.from_array(make(stereo), RATE), expected, atol=1e-7)
    assert np.allclose(audio.from_array(make(stereo.T.copy()), RATE), expected, atol=1e-7)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        (np.int8, -(2**7), 2**7 - 1),
        (np.int16, -(2**15), 2**15 - 1),
        (np.int32, -(2**31), 2**31 - 1),
        (np.uint8, 0, 2**8 - 1),
        (np.uint16, 0, 2**16 - 1),
        (np.uint32, 0, 2**32 - 1),
        (np.int64, -(2**15), 2**15 - 1),
        (np.int64, -(2**31), 2**31 - 1),
        (np.int64, -(2**63), 2**63 - 1),
        (np.uint64, 0, 2**16 - 1),
    ],
)
def test_integers_are_scaled_by_their_range(dtype, low, high):
    middle = (low + high + 1) // 2
    waveform = audio.from_array(np.array([low, middle, high], dtype=dtype), RATE)
    assert waveform.dtype == np.float32
    assert np.allclose(waveform, [-1, 0, 1], atol=2 / (float(high) - float(low)) + 1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int16])
def test_torch_types(dtype):
    factor = 1 if dtype.is_floating_point else 2**15
    samples = (torch.from_numpy(tone()) * factor).to(dtype)
    assert np.abs(audio.from_array(samples, RATE) - tone()).max() < 2e-3


def test_gradients_lists_and_big_endian_do_not_matter():
    wanted = torch.from_numpy(tone()).requires_grad_()
    assert np.array_equal(audio.from_array(wanted, RATE), tone())
    assert np.allclose(audio.from_array([0, 16_384, -32_768], RATE), [0, 0.5, -1])
    assert np.array_equal(audio.from_array(tone().astype(">f4"), RATE), tone())
    assert audio.from_array(tone().astype(">f4"), RATE).dtype == np.dtype("=f4")


def test_from_array_does_as_load(tmp_path):
    samples = noise(44_100, seed=3)
    path = write(tmp_path / "a.wav", samples, 44_100, subtype="FLOAT")
    twin = soxr.resample(samples, 44_100, RATE, quality="HQ")
    assert np.array_equal(audio.load(path), twin)
    assert np.array_equal(audio.from_array(samples, 44_100), twin)


def test_from_array_leaves_its_input_alone():
    samples = tone()
    waveform = audio.from_array(samples, RATE)
    waveform += 1
    assert np.array_equal(samples, tone())


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(0, np.float32),
        np.zeros((2, 0), np.float32),
        np.float32(0.5),
        np.zeros((2, 3, 100)),
        np.zeros((3_000, 80)),
        np.zeros((40, 40)),
        np.zeros(100, bool),
        np.zeros(100, complex),
        np.array(["a", "b"]),
        [[1.0, 2.0], [3.0]],
    ],
)
def test_arrays_that_are_no_recording(array):
    with pytest.raises(AudioError) as error:
        audio.from_array(array, RATE)
    one_line(error)


@pytest.mark.parametrize("rate", [0, -16_000, 16, float("nan"), float("inf"), 10_000_000])
def test_impossible_rates(rate):
    with pytest.raises(AudioError, match="sample rate"):
        audio.from_array(tone(), rate)


# --- stream ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("chunk_s", [0.1, 0.7, 60.0])
def test_streamed_pieces_join_to_the_whole(tmp_path, rate, chunk_s):
    channels = np.stack([noise(25 * rate + 77, seed=i) for i in range(2)], axis=1)
    path = write(tmp_path / "a.wav", channels, rate, subtype="FLOAT")
    pieces = list(audio.stream(path, chunk_s=chunk_s))
    assert all(len(piece) == round(chunk_s * RATE) for piece in pieces[:-1])
    assert 0 < len(pieces[-1]) <= round(chunk_s * RATE)
    assert {piece.dtype for piece in pieces} == {np.dtype(np.float32)}
    whole = soxr.resample(channels.mean(axis=1, dtype=np.float32), rate, RATE, quality="HQ")
    assert np.allclose(np.concatenate(pieces), whole, atol=1e-6)
    assert np.array_equal(np.concatenate(pieces), audio.load(path))


def test_three_hours_stream_in_flat_memory(tmp_path):
    n_samples = 3 * 3_600 * RATE
    path = write(tmp_path / "long.wav", tone(), subtype="PCM_16")
    patch(path, 40, 2 * n_samples)
    with path.open("r+b") as file:
        file.truncate(44 + 2 * n_samples)  # silence that takes no room on the disk
    tracemalloc.start()
    try:
        assert sum(len(piece) for piece in audio.stream(path, chunk_s=30.0)) == n_samples
        assert tracemalloc.get_traced_memory()[1] < 32 * 2**20
    finally:
        tracemalloc.stop()
    assert audio.duration_s(path) == 10_800.0


def test_stream_raises_as_load(tmp_path):
    with pytest.raises(AudioError, match="no file"):
        next(audio.stream(tmp_path / "a.wav", chunk_s=1.0))
    path = write(tmp_path / "a.wav", tone())
    with pytest.raises(AudioError, match="chunk_s"):
        next(audio.stream(path, chunk_s=0.0))


def test_a_stream_can_be_left(tmp_path):
    path = write(tmp_path / "a.wav", tone(3.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pieces = audio.stream(path, chunk_s=1.0)
        assert len(next(pieces)) == RATE
        pieces.close()


# --- find_audio --------------------------------------------------------------------------------


def test_find_audio(tmp_path):
    wanted = ["A/2.FLAC", "a/3.mp3", "B.wav", "c/d/e.sph", "Z.Ogg", "voice memo.m4a"]
    hidden = [".x.wav", ".git/y.wav", "c/._e.sph", "notes.txt", "labels.csv"]
    for name in wanted + hidden:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")  # opening it would never end
    notes = []
    found = [str(path.relative_to(tmp_path)) for path in audio.find_audio(tmp_path, notes.append)]
    assert notes == [
        f"{tmp_path}: 6 recordings; passed over: 1 .csv, 1 .txt, 3 hidden, "
        "1 pipes, devices and broken links"
    ]
    assert sorted(found) == sorted(wanted)
    assert found == ["A/2.FLAC", "a/3.mp3", "B.wav", "c/d/e.sph", "voice memo.m4a", "Z.Ogg"]


def test_find_audio_without_audio(tmp_path):
    (tmp_path / "a.txt").touch()
    for folder in (tmp_path, tmp_path / "a.txt", tmp_path / "nothing"):
        with pytest.raises(AudioError) as error:
            audio.find_audio(folder)
        one_line(error)


# --- log-mel -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_samples", "n_mels"),
    [(n, 80) for n in (1, 159, 160, 161, 16_000, 123_457, 480_000 - 200)] + [(16_000, 128)],
)
@pytest.mark.parametrize("kind", ["fading", "click", "silence"])
def test_log_mel_equals_that_of_transformers(n_mels, n_samples, kind):
    transformers = pytest.importorskip("transformers")
    waveform = noise(n_samples) * np.linspace(1e-3, 1, n_samples, dtype=np.float32)
    if kind == "click":  # the loudest frame, which sets the floor, is behind the last real one
        waveform *= 1e-5
        waveform[-1] = 1.0
    if kind == "silence":
        waveform[:] = 0.0
    extractor = transformers.WhisperFeatureExtractor(feature_size=n_mels)
    twin = extractor(waveform, sampling_rate=RATE, return_tensors="pt").input_features[0]
    padded = log_mel(waveform, n_mels=n_mels, pad_to_s=30)
    assert padded.dtype == torch.float32
    assert padded.shape == twin.shape
    assert (padded - twin).abs().max() < 1e-5
    real = log_mel(waveform, n_mels=n_mels)
    assert real.shape == (n_mels, -(-n_samples // 160))
    assert (real - twin[:, : real.shape[1]]).abs().max() < 1e-5


def test_a_full_chunk_equals_that_of_transformers():
    transformers = pytest.importorskip("transformers")
    waveform = noise(mel.N_SAMPLES)
    twin = transformers.WhisperFeatureExtractor()(
        waveform, sampling_rate=RATE, return_tensors="pt"
    ).input_features[0]
    assert (log_mel(waveform, pad_to_s=30) - twin).abs().max() < 1e-5
    # Only the last frame sees what follows: there a mirror image, here silence.
    assert (log_mel(waveform) - twin)[:, :-1].abs().max() < 1e-5


def test_log_mel_equals_a_slow_sum():
    waveform = noise(2_000)
    padded = np.concatenate([waveform[200:0:-1], waveform, np.zeros(2_000)])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    phases = np.exp(-2j * np.pi * np.outer(np.arange(201), np.arange(400)) / 400)
    rows = []
    for frame in range(15):  # 13 real frames and the two that still hear the end
        spectrum = phases @ (padded[frame * 160 : frame * 160 + 400] * window)
        rows.append(np.log10(np.maximum(mel._filters(80).numpy() @ np.abs(spectrum) ** 2, 1e-10)))
    twin = (np.maximum(np.stack(rows, axis=1), np.max(rows) - 8) + 4) / 4
    assert np.abs(log_mel(waveform).numpy() - twin[:, :13]).max() < 1e-5


def test_batches_equal_rows_and_are_zero_behind_them():
    waveforms = [noise(n, seed=n) for n in (16_000, 160, 40_001)]
    batch, n_frames = log_mel_batch(waveforms)
    assert n_frames.tolist() == [100, 1, 251]
    assert batch.shape == (3, 80, 251)
    for row, count, waveform in zip(batch, n_frames, waveforms, strict=True):
        assert torch.equal(row[:, :count], log_mel(waveform))
        assert (row[:, count:] == 0).all()
    padded, n_frames = log_mel_batch(waveforms, n_mels=128, pad_to_s=30)
    assert padded.shape == (3, 128, 3_000)
    assert n_frames.tolist() == [100, 1, 251]
    assert torch.equal(padded[1], log_mel(waveforms[1], n_mels=128, pad_to_s=30))


def test_log_mel_refuses_what_it_would_spoil():
    for waveform in (np.zeros(0, np.float32), np.zeros((2, 160), np.float32)):
        with pytest.raises(AudioError):
            log_mel(waveform)
    with pytest.raises(AudioError, match=r"2\.00 s.*1 s"):
        log_mel(tone(2.0), pad_to_s=1)
    with pytest.raises(AudioError, match="at least one"):
        log_mel_batch([])


# --- loudness ----------------------------------------------------------------------------------


def test_silence_hiss_and_offsets_are_silent():
    n_samples = 2 * RATE
    assert audible(np.zeros(n_samples, np.float32)) is None
    assert audible(np.zeros(0, np.float32)) is None
    assert audible(noise(n_samples, -70)) is None
    assert audible(noise(n_samples, -70) + np.float32(0.1)) is None
    assert audible(noise(n_samples, -30)) is None, "steady hiss, however loud"
    assert audible(noise(RATE // 5, -30)) is not None, "too short to be sure"


def test_speech_is_not_silent():
    quiet = syllables(level_dbfs=-50)
    assert audible(quiet) is not None
    assert audible(quiet + noise(len(quiet), -50)) is not None
    assert audible(tone(3.0, hz=110)) is not None, "a held vowel is steady but has a pitch"
    alone = np.zeros(30 * RATE, np.float32)
    alone[5 * RATE : 5 * RATE + 8_000] = syllables(0.5, -45)
    assert audible(alone) is not None, "one word in half a minute"


@pytest.mark.parametrize("level_dbfs", [-50, -35, -20, -6])
def test_loudness_reaches_the_target(level_dbfs):
    raised = audible(syllables(level_dbfs=level_dbfs))
    assert raised.dtype == np.float32
    assert active_level_dbfs(raised) == pytest.approx(-23.0, abs=0.1)
    assert np.abs(raised).max() <= 0.99


def test_pauses_do_not_count_as_quiet_speech():
    speech = syllables(2.0, -40)
    pause = noise(18 * RATE, -75)
    assert active_level_dbfs(np.concatenate([pause, speech])) == pytest.approx(
        active_level_dbfs(speech), abs=1.0
    )


def test_a_click_does_not_keep_speech_quiet():
    speech = syllables(3.0, -45)
    clicked = speech.copy()
    clicked[24_000:24_100] = 0.9
    raised = audible(clicked)
    assert np.abs(raised).max() <= 0.99
    away = np.r_[0:23_000, 25_100:48_000]
    gain = np.dot(raised[away], speech[away]) / np.dot(speech[away], speech[away])
    assert 20 * np.log10(gain) == pytest.approx(-23 - active_level_dbfs(speech), abs=1.0)
    assert np.allclose(raised[away], gain * speech[away], atol=1e-5), "no distortion elsewhere"


def test_a_cough_is_turned_down_and_not_cut_off():
    speech = syllables(3.0, -45)
    cough = tone(0.2, hz=500.0) * 3
    speech[24_000:27_200] = cough
    raised = audible(speech)
    assert np.abs(raised).max() > 0.9
    spectrum = np.abs(np.fft.rfft(raised[24_400:26_800] * np.hanning(2_400)))
    fundamental, third = spectrum[75], spectrum[225]  # 500 and 1,500 Hz; 20/3 Hz a bin
    assert third < 0.01 * fundamental, "clipping makes a third harmonic of a tenth and more"


def test_gain_is_bounded():
    faint = syllables(level_dbfs=-67)
    assert active_level_dbfs(faint) < -23 - 40
    assert np.allclose(audible(faint), faint * 100, rtol=1e-5)


def test_loud_and_offset_waveforms_stay_in_range():
    for waveform in (tone() * 1e4, tone() + np.float32(0.8), np.sign(tone()) * np.float32(1.0)):
        assert np.abs(audible(waveform)).max() <= 0.99


def test_content_hash():
    assert content_hash(tone()) == content_hash(tone().astype(np.float64))
    assert content_hash(tone()) != content_hash(-tone())
    assert content_hash(tone()) == content_hash(np.repeat(tone(), 2)[::2])
    assert len(content_hash(tone())) == 64


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_one_channel_alone(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"call.{suffix}"
    rng = np.random.default_rng(5)
    callers = rng.uniform(-0.5, 0.5, (24_000, 2))
    soundfile.write(path, callers, 16_000)
    for channel in (0, 1):
        heard = audio.load(path, start_s=0.5, end_s=1.25, channel=channel)
        assert np.allclose(heard, callers[8_000:20_000, channel], atol=1e-4)
    assert np.allclose(audio.load(path), callers.mean(axis=1), atol=1e-4)
    for channel in (2, -1):
        with pytest.raises(AudioError, match=f"has 2 channels; there is no channel {channel}"):
            audio.load(path, channel=channel)
