"""Where image files lie: below a folder, or in a zip that is not unpacked."""

import hashlib
import os
import sys
import unicodedata
import zipfile
from collections.abc import Iterator
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from kdzero_gp.data.cache import FileStamp, known_digest
from kdzero_gp.errors import DataError

SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp", ".avif",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".tga",
)  # fmt: skip
LAYOUT = "{train,test}/<class>/<image>.png"
COMPRESSIONS = {9: "deflate64", 93: "Zstandard", 95: "XZ", 98: "PPMd"}
"""Methods of zip files (https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.4.5) that Python cannot read."""
READ_METHODS = {0, 8, 12, 14} | ({93} if sys.version_info >= (3, 14) else set())
AES = 99
"""Given as the method of encrypted files."""
END_BYTES = 65_557
"""The end of a zip, which says where its directory is, lies in so many last bytes."""
SIGNATURES = {
    b"\x1f\x8b": "a gzip file", b"Rar!": "a RAR archive", b"7z\xbc\xaf": "a 7z archive", b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file", b"\x89HDF": "an HDF5 file", b"\x93NUMPY": "a numpy file", b"%PDF": "a PDF file",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself", b"<": "a web page",
    b"PK": "a damaged zip, perhaps cut off in a download", b"\x89PNG": "an image", b"\xff\xd8\xff": "an image",
}  # fmt: skip
"""How files begin that are given by mistake."""


class File(NamedTuple):
    """A file by the folders that lead to it and its name, in one spelling, and by what its source calls it."""

    parts: tuple[str, ...]
    name: str

    @classmethod
    def of(cls, name: str) -> "File":
        """Back slashes, ``./`` and the decomposed accents of macOS make no difference."""
        normal = unicodedata.normalize("NFC", name.replace("\\", "/"))
        return cls(tuple(part for part in normal.split("/") if part not in ("", ".")), name)

    @property
    def suffix(self) -> str:
        """The suffix in lower case, as ``.png``."""
        return os.path.splitext(self.parts[-1])[1].lower()  # noqa: PTH122 (no path of this system)

    @property
    def is_image(self) -> bool:
        """Whether the suffix is one of an image."""
        return self.suffix in SUFFIXES


def _is_hidden(part: str) -> bool:
    # macOS adds a shadow of every file in a folder of this name.
    return part.startswith((".", "__MACOSX")) and part not in (".", "..")


class Folder:
    """The files below a folder."""

    def __init__(self, path: Path):
        self.path = path
        self.folders: set[tuple[str, ...]] = set()

    def __enter__(self) -> "Folder":
        _ = self.stamps
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is kept open."""

    @cached_property
    def stamps(self) -> list[FileStamp]:
        """What tells whether the data changed: all files, as ``train/apple/1.png``, in this order."""
        return sorted(self._walk(self.path, "", ()), key=lambda file: file.path)

    def _walk(self, folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[FileStamp]:
        try:
            status = folder.stat()
            place = (status.st_dev, status.st_ino)
            if place in above:
                raise DataError(f"the link {folder} leads back to a folder above it; remove it")
            with os.scandir(folder) as entries:
                for entry in entries:
                    if _is_hidden(entry.name):
                        continue
                    if entry.is_dir():
                        self.folders.add(File.of(prefix + entry.name).parts)
                        yield from self._walk(Path(entry.path), f"{prefix}{entry.name}/", (*above, place))
                    elif entry.is_file():
                        yield FileStamp.of(entry.stat(), prefix + entry.name)
                    elif entry.is_symlink() and File.of(entry.name).is_image:
                        target = os.readlink(entry.path)  # noqa: PTH115 (its text, not where it leads)
                        raise DataError(f"the link {entry.path} leads to {target}, which is not there; remove it")
        except OSError as error:
            name = error.filename or folder
            raise DataError(
                f"{name} cannot be read ({error.strerror or error}); change its permissions or move it"
            ) from (error)

    @cached_property
    def files(self) -> list[File]:
        """All files, sorted."""
        return sorted(File.of(stamp.path) for stamp in self.stamps)

    def read(self, name: str) -> Path:
        """What Pillow opens to read the image of this path."""
        return self.path / name

    def content(self, name: str) -> bytes:
        """The bytes of a file."""
        return (self.path / name).read_bytes()


class Zip:
    """The files in a zip, which is open while ``with`` lasts."""

    def __init__(self, path: Path):
        self.path = path
        self.folders: set[tuple[str, ...]] = set()

    def __enter__(self) -> "Zip":
        # Opened once, because reading the list of 60,000 files takes most of a second.
        try:
            self._archive = zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
            raise DataError(f"{self.path} is not a readable zip ({error}); make it again") from error
        return self

    def __exit__(self, *error: object) -> None:
        self._archive.close()

    @cached_property
    def stamps(self) -> list[FileStamp]:
        """What tells whether the data changed: the zip's directory, which has a checksum of every file in it."""
        status = self.path.stat()
        digest = known_digest(self.path, status, self._digest)
        return [FileStamp("", status.st_size, status.st_mtime_ns, digest=digest)]

    def _digest(self) -> str:
        """A digest of the zip's directory."""
        with self.path.open("rb") as file:
            whole = file.seek(0, os.SEEK_END)
            file.seek(max(0, whole - END_BYTES))
            end = file.read()
            end = end[end.rfind(b"PK\5\6") :]
            size = int.from_bytes(end[12:16], "little") + END_BYTES
            file.seek(max(0, whole - size))
            return hashlib.sha256(file.read()).hexdigest()

    @cached_property
    def files(self) -> list[File]:
        """All files, sorted. Raises DataError where they cannot be read or lead out of the zip."""
        files: dict[str, File] = {}
        for entry in self._archive.infolist():
            file = File.of(entry.filename)
            if any(_is_hidden(part) for part in file.parts):
                continue
            self.folders.update(file.parts[:depth] for depth in range(1, len(file.parts)))
            if entry.filename.endswith(("/", "\\")):
                self.folders.add(file.parts)
                continue
            if ".." in file.parts:
                raise DataError(f"{self.path} holds the path {entry.filename}, which leads out of it; make it again")
            if entry.flag_bits & 1 or entry.compress_type == AES:
                raise DataError(f"{self.path} is encrypted; unpack it with its password and give the folder")
            if entry.compress_type not in READ_METHODS:
                method = COMPRESSIONS.get(entry.compress_type, f"method {entry.compress_type}")
                raise DataError(
                    f"{self.path} is compressed with {method}, which cannot be read here; unpack it and give the folder"
                )
            files[entry.filename] = file  # of two entries with one name the later counts, as for unzip
        return sorted(files.values())

    def read(self, name: str) -> BytesIO:
        """What Pillow opens to read the image of this path."""
        return BytesIO(self.content(name))

    def content(self, name: str) -> bytes:
        """The bytes of a file."""
        return self._archive.read(name)


Source = Folder | Zip


def find(path: Path) -> Source:
    """The images at ``path``. Raises DataError when it is neither a folder nor a zip."""
    if path.is_dir():
        return Folder(path)
    start = b""
    try:
        if path.is_file():
            if zipfile.is_zipfile(path):
                return Zip(path)
            with path.open("rb") as file:
                start = file.read(300)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); change its permissions or move it") from error
    kind = next((kind for sign, kind in SIGNATURES.items() if start.lstrip().startswith(sign)), "")
    kind = "a tar archive" if start[257:262] == b"ustar" else kind
    raise DataError(
        f"{path} is {kind + ' and ' if kind else ''}neither a folder nor a zip; give a tree {LAYOUT}, or a zip of it, "
        "with --data"
    )
