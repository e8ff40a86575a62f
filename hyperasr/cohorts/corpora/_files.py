"""Files of a corpus, safely: nothing outside of its root, no loops, encodings that are stated."""

from __future__ import annotations

import codecs
import csv
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

from hyperasr.errors import ConfigError

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".sph")
_N_EXAMPLES = 3


@dataclass
class Report:
    """What was found and what was skipped.

    Attributes:
        n_rows: rows given out; duration_s: their sum, of those whose length is known.
        cohorts: rows by cohort; speakers: cohort by speaker.
        skipped: number by reason; examples: the first few of each reason.
        notes: what the user should know, by number of times.
    """

    n_rows: int = 0
    duration_s: float = 0.0
    cohorts: Counter[str] = field(default_factory=Counter)
    speakers: dict[str, str] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)

    def skip(self, reason: str, example: str | os.PathLike[str]) -> None:
        """Count one case that is left out; the first few of a reason are kept as examples."""
        self.skipped[reason] += 1
        if self.skipped[reason] <= _N_EXAMPLES:
            shown = str(example).encode("utf-8", "backslashreplace").decode()
            self.examples.setdefault(reason, []).append(shown)

    def note(self, what: str) -> None:
        """Count something that was dealt with and that the user should know."""
        self.notes[what] += 1

    def lines(self) -> list[str]:
        """Return the report for people, one line a fact."""
        hours = f", {self.duration_s / 3600:.2f} h" if self.duration_s else ""
        cohorts = ", ".join(f"{n} {cohort}" for cohort, n in sorted(self.cohorts.items()))
        lines = [
            f"{self.n_rows} utterances{hours} of {len(self.speakers)} speakers"
            + (f" ({cohorts})" if cohorts else "")
        ]
        for reason, n in self.skipped.most_common():
            lines.append(f"skipped {n}: {reason} (such as {'; '.join(self.examples[reason])})")
        lines += [f"note, {n} times: {what}" for what, n in sorted(self.notes.items())]
        return lines


def corpus_root(root: str | os.PathLike[str]) -> Path:
    """Return the folder of a corpus as an absolute path.

    Raises:
        ConfigError: there is no such folder.
    """
    path = Path(os.path.abspath(os.path.expanduser(root)))
    if not path.is_dir():
        raise ConfigError(f"there is no folder {root}; give the folder of the unpacked corpus")
    return path


def walk(
    root: Path, report: Report, suffixes: Iterable[str] = (), *, within: Path | None = None
) -> Iterator[Path]:
    """Yield the files below `root`, folder by folder, sorted without regard to case.

    Hidden files and folders and ``__MACOSX`` are left out. Links to folders are not followed, so
    there are no loops: what lies below the root is found under its own name. Links to files count
    as long as they end below the root. What is refused is counted in `report`.

    Args:
        root: where to begin, as `corpus_root` returns it (or a folder below it).
        report: for links that are not followed and folders that cannot be read.
        suffixes: such as ``.wav``, in lower case; empty means all files.
        within: root of the corpus, where links may end; None means `root`.
    """
    real_root, wanted = os.path.realpath(within or root), tuple(suffixes)
    try:
        with os.scandir(root) as entries:
            listing = sorted(entries, key=lambda entry: (entry.name.lower(), entry.name))
    except OSError as error:
        report.skip(f"a folder cannot be read ({error.strerror})", root)
        return
    for entry in listing:
        name, kind = entry.name.lower(), _kind(entry)
        if name.startswith(".") or entry.name == "__MACOSX":
            continue
        if kind != "folder" and wanted and not name.endswith(wanted):
            continue
        if entry.is_symlink() and (fault := _link_fault(entry.path, real_root, kind == "folder")):
            report.skip(fault, entry.path)
        elif kind == "folder":
            yield from walk(Path(entry.path), report, wanted, within=Path(real_root))
        elif kind == "file":
            yield Path(entry.path)
        else:  # reading a pipe would never end
            report.skip("neither a file nor a folder", entry.path)


def _kind(entry: os.DirEntry[str]) -> str:
    """Return file, folder or other; of a link, that of its end."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    except OSError:  # a link to itself
        return "other"


def _link_fault(path: str, real_root: str, is_dir: bool) -> str | None:
    try:
        target = os.path.realpath(path, strict=True)
    except OSError:
        return "a link that leads nowhere or round in a loop"
    if target != real_root and not target.startswith(real_root.rstrip(os.sep) + os.sep):
        return "a link that leaves the root"
    return "a link to a folder of the corpus, which is read under its own name" if is_dir else None


def find_named(
    root: Path,
    name: str,
    report: Report | None = None,
    *,
    depth: int = 4,
    within: Path | None = None,
) -> list[Path]:
    """List files and folders called `name`, in any case, at most `depth` levels below `root`.

    Upper levels come first. Links are treated as by `walk`; those that are refused are counted
    where a `report` is given.
    """
    matches: list[Path] = []
    level = [root]
    real_root = os.path.realpath(within or root)
    for _ in range(depth):
        deeper: list[Path] = []
        for folder in level:
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError:  # `walk` reports it
                continue
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    deeper.append(Path(entry.path))
                if entry.name.lower() != name.lower():
                    continue
                linked = entry.is_symlink()
                fault = linked and _link_fault(entry.path, real_root, _kind(entry) == "folder")
                if not fault:
                    matches.append(Path(entry.path))
                elif report is not None:
                    report.skip(fault, entry.path)
        level = deeper
    return matches


def listed_path(
    root: Path, listed: str, report: Report, *, below: Path | None = None
) -> Path | None:
    """Return the file that a corpus's list names, or None with the reason counted.

    Absolute paths, ``..`` and links that leave `root` are refused. Whether the file exists is left
    to `Prepared`, which counts it as listed but absent.

    Args:
        root: of the corpus.
        listed: as the list has it; backslashes are taken for slashes.
        report: where a refusal is counted.
        below: folder that the list's paths start from; None means `root`.
    """
    name = listed.strip().replace("\\", "/")
    if not name:
        report.skip("a listed path is empty", listed)
        return None
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive:
        report.skip("a listed path is absolute", listed)
        return None
    path = Path(os.path.normpath((below or root) / name))
    real = os.path.realpath(path)
    if not path.is_relative_to(root) or not Path(real).is_relative_to(os.path.realpath(root)):
        report.skip("a listed path leaves the root", listed)
        return None
    return path


def read_text(path: Path, report: Report, *, fallback: str = "cp1252") -> str | None:
    """Return a text file with plain line ends, or None with the reason counted in `report`.

    UTF-8 with or without byte order mark, or UTF-16 with one; else `fallback`, which is noted.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        report.skip(f"a text cannot be read ({error.strerror})", path)
        return None
    utf_16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ("utf-16",) if utf_16 else ("utf-8-sig", fallback):
        try:
            text = raw.decode(encoding)
        except UnicodeError:
            continue
        if encoding == fallback:
            report.note(f"a text that is no UTF-8 was read as {fallback}")
        return text.replace("\r\n", "\n").replace("\r", "\n")
    report.skip(f"a text is neither UTF-8 nor {fallback}", path)
    return None


def read_pairs(path: Path, report: Report, *, fallback: str = "cp1252") -> dict[str, str]:
    """Return the lines of a text file by their first field; none where there is no such file.

    Further lines of an id are skipped with a reason. Encodings as `read_text`.
    """
    pairs: dict[str, str] = {}
    text = read_text(path, report, fallback=fallback) if path.is_file() else None
    for line in (text or "").split("\n"):
        name, _, rest = line.strip().replace("\t", " ", 1).partition(" ")
        if name in pairs:
            report.skip(f"a second line of the same id in {path.name}", name)
        elif name:
            pairs[name] = rest.strip()
    return pairs


def read_table(
    path: Path,
    report: Report,
    *,
    delimiter: str = ",",
    header: Iterable[str] | None = None,
    quoted: bool = True,
    fallback: str = "cp1252",
) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV or TSV file by column name; values are stripped.

    Rows with more or fewer fields than columns are skipped with a reason; an empty unnamed last
    column, as some writers leave it, is not. Encodings as `read_text`.

    Args:
        path: the file.
        report: for what is skipped.
        delimiter: between fields.
        header: column names of a file without a header.
        quoted: whether double quotes group; False where they are part of the text.
        fallback: encoding of a file that is no UTF-8.
    """
    text = read_text(path, report, fallback=fallback)
    if text is None:
        return
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        skipinitialspace=quoted,
    )
    columns = None if header is None else list(header)
    try:
        for fields in reader:
            values = [value.strip() for value in fields]
            if not any(values):
                continue
            if columns is None:
                columns = values
                while columns and not columns[-1]:
                    columns.pop()
            elif len(values) < len(columns) or any(values[len(columns) :]):
                where = f"{path.name}, line {reader.line_num}"
                report.skip("a row of a table has too many or too few fields", where)
            else:
                yield dict(zip(columns, values, strict=False))
    except csv.Error as error:  # such as a field without end
        report.skip(f"a table cannot be read to its end ({error})", path.name)
