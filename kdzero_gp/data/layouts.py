"""Which image belongs to which part and class: read from the folders' names and from tables of labels."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from kdzero_gp.data.account import listed
from kdzero_gp.data.images import LAYOUT, File, Source
from kdzero_gp.data.roles import PIECES, TEST, TRAIN, UNLABELLED, VALIDATION, is_generic, is_plain, role
from kdzero_gp.data.tables import Table, read_tables, sorted_labels
from kdzero_gp.errors import DataError

DEPTH = 6
"""So many folders may lie around the parts."""
HARMLESS = {
    "", ".txt", ".csv", ".tsv", ".json", ".xml", ".md", ".html", ".htm", ".db", ".ini", ".pdf", ".yaml", ".yml", ".url",
    ".log", ".py", ".ipynb", ".rst", ".doc", ".docx", ".lnk", ".license",
}  # fmt: skip
"""Suffixes of files beside images that nobody misses."""

Labelled = list[tuple[str, int]]
"""What the source calls the images, with the index of their class."""
Folders = tuple[str, ...]


@dataclass
class Layout:
    """The classes in alphabetical order and the images with labels of each part; ``validation`` and ``test`` may be
    missing. ``origins``, ``skipped`` and ``notes``: see ``DataAccount``."""

    classes: tuple[str, ...]
    train: Labelled
    validation: Labelled | None = None
    test: Labelled | None = None
    origins: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass
class _Part:
    """The images of one part: where they lie, and their class by the folder or the table."""

    name: str
    images: list[File]
    depth: int
    labels: dict[File, str] = field(default_factory=dict)
    source: str = ""
    tabled: bool = False


def layout(source: Source) -> Layout:
    """Reads the classes and parts. Raises DataError where there are no two classes, or two ways to read."""
    images = [file for file in source.files if file.is_image]
    if not images:
        suffixes = Counter(file.suffix or "no suffix" for file in source.files)
        seen = listed([f"{count} {suffix}" for suffix, count in suffixes.most_common()]) or "no files"
        raise DataError(f"{source.path} has no images, so training images of 0 classes ({seen}); give with --data a "
                        f"tree {LAYOUT}, or a zip of it")  # fmt: skip
    return _LayoutReader(source, images).read()


class _LayoutReader:
    def __init__(self, source: Source, images: list[File]):
        self.source, self.path, self.images = source, source.path, images
        self.layout = Layout((), [])
        self._tables: list[Table] | None = None
        self.untrained: list[str] = []

    @property
    def tables(self) -> list[Table]:
        """Tables of labels, read only where folders give none."""
        if self._tables is None:
            self._tables = read_tables(self.source, self.images)
        return self._tables

    def read(self) -> Layout:
        parts = self._parts()
        for part in parts:
            self._label(part, parts[0])
        train = parts[0]
        classes = (
            sorted_labels(train.labels.values()) if "table" in train.source else sorted(set(train.labels.values()))
        )
        self._check_classes(classes, train)
        self.layout.classes = tuple(classes)
        label = {name: index for index, name in enumerate(classes)}
        for part in parts:
            unknown = sorted(set(part.labels.values()) - label.keys())
            if unknown:
                raise DataError(f"the class {unknown[0]!r} of {self.path} has {part.name} but no training images; add "
                                "some or remove it")  # fmt: skip
        self._assign(parts, label)
        self._count_rest(parts)
        return self.layout

    def _assign(self, parts: list[_Part], label: dict[str, int]) -> None:
        """Gives the labelled parts to the layout; a validation part alone stands for the test."""
        labelled = {part.name: part for part in parts if part.labels}
        if TEST not in labelled and VALIDATION in labelled:
            labelled[TEST] = labelled.pop(VALIDATION)
        for name, part in labelled.items():
            pairs = [(f.name, label[c]) for f, c in sorted(part.labels.items(), key=lambda pair: (pair[1], pair[0]))]
            setattr(self.layout, name, pairs)
            self.layout.origins[name] = part.source
            missing = [c for c in self.layout.classes if c not in set(part.labels.values())]
            if missing:
                self.layout.notes.append(f"{name} has no images of {len(missing)} classes: {listed(missing)}")

    def _refuse(self, reason: str) -> DataError:
        return DataError(f"{self.path} {reason}")

    # Parts

    def _parts(self) -> list[_Part]:
        """The parts, the training part first."""
        for depth in range(DEPTH):
            below: dict[Folders, dict[str, list[File]]] = defaultdict(lambda: defaultdict(list))
            for file in self.images:
                if len(file.parts) > depth + 1:
                    below[file.parts[:depth]][file.parts[depth]].append(file)
            splits = {top: folders for top, folders in below.items() if self._is_split(folders, depth)}
            if len(splits) > 1 and all(self._is_flat(folders, depth) for folders in splits.values()):
                return self._classes_above_parts(splits)
            if len(splits) > 1:
                names = listed(["/".join(top) for top in sorted(splits)], 3)
                raise self._refuse(f"holds several data sets ({names}); give one with --data")
            for top, folders in splits.items():
                return self._from_folders(top, folders, depth)
        return self._without_parts()

    def _is_split(self, folders: dict[str, list[File]], depth: int) -> bool:
        """Whether folders side by side are parts: by their names, and since parts hold classes and classes do not."""
        named = {name for name in folders if role(name) in (TRAIN, VALIDATION, TEST)}
        if not named:
            return False
        others = [name for name in folders if not role(name)]
        holds_classes = any(len(f.parts) > depth + 2 for name in named for f in folders[name])
        if others and (not holds_classes or not all(map(is_plain, named))):
            return False  # a class called "train", or a "bullet train", beside other classes
        if not any(role(name) == TRAIN for name in named):
            if not others:  # unless parts follow further down, as in my_test/{train,test}
                self.untrained = self.untrained or sorted(named)
            return False
        return True

    def _is_flat(self, folders: dict[str, list[File]], depth: int) -> bool:
        return all(len(file.parts) == depth + 2 for name, files in folders.items() if role(name) for file in files)

    def _from_folders(self, top: Folders, folders: dict[str, list[File]], depth: int) -> list[_Part]:
        parts: dict[str, _Part] = {}
        for name, files in sorted(folders.items()):
            part = role(name)
            if part in (None, UNLABELLED):
                continue
            if part in parts:
                before = parts[part].source
                if part != TRAIN and not self._classes_below(files, depth + 1):
                    continue  # images without labels beside a part that has some
                if part == TRAIN or self._classes_below(parts[part].images, depth + 1):
                    raise self._refuse(f"has two {part} parts ({before} and {name}); leave one of them")
            parts[part] = _Part(part, files, depth + 1, source="/".join((*top, name)))
        return sorted(parts.values(), key=lambda part: part.name != TRAIN)

    def _classes_above_parts(self, splits: dict[Folders, dict[str, list[File]]]) -> list[_Part]:
        """A tree ``<class>/{train,test}/<image>``."""
        parts: dict[str, _Part] = {}
        for top, folders in splits.items():
            for name, files in folders.items():
                part = role(name)
                if part and part != UNLABELLED:
                    source = f"the folders {name} in each class"
                    kept = parts.setdefault(part, _Part(part, [], len(top), source=source))
                    kept.labels |= dict.fromkeys(files, top[-1])
                    kept.images += files
        return sorted(parts.values(), key=lambda part: part.name != TRAIN)

    def _without_parts(self) -> list[_Part]:
        """No folders of parts: all images are for training, or tables say which are."""
        if self.untrained:
            raise self._refuse(f"has no folder 'train' with training images but {listed(self.untrained)}; its layout "
                               f"is {LAYOUT}")  # fmt: skip
        depth = self._stripped(self.images, 0)
        if self._classes_below(self.images, depth):
            where = "/".join(self.images[0].parts[:depth]) or "the top"
            return [_Part(TRAIN, self.images, depth, source=f"the folders in {where}, each taken as a class")]
        parts: dict[str, _Part] = {}
        for table in self.tables:
            whole = table.role or TRAIN
            for file, label in table.labels.items():
                name = table.parts.get(file) or whole
                if name != UNLABELLED and not any(file in part.labels for part in parts.values()):
                    part = parts.setdefault(name, _Part(name, [], depth, source=self._told(table), tabled=True))
                    part.labels[file] = label
                    part.images.append(file)
        if TRAIN not in parts:
            raise self._refuse_unlabelled(self.images)
        return sorted(parts.values(), key=lambda part: part.name != TRAIN)

    # Classes

    @staticmethod
    def _stripped(files: Sequence[File], depth: int, keep: Iterable[str] = ()) -> int:
        """The depth below all folders that hold everything."""
        while len({file.parts[depth] for file in files}) == 1 and all(len(file.parts) > depth + 1 for file in files):
            name = files[0].parts[depth]
            leaf = all(len(file.parts) == depth + 2 for file in files)
            if name in keep or (leaf and not is_generic(name) and not role(name)):
                break
            depth += 1
        return depth

    @staticmethod
    def _classes_below(files: Sequence[File], depth: int) -> list[str]:
        """The folders at a depth, without those that hold kinds of files."""
        return sorted({f.parts[depth] for f in files if len(f.parts) > depth + 1 and not is_generic(f.parts[depth])})

    def _label(self, part: _Part, train: _Part) -> None:
        """Finds the class of each image of a part by its folder, or else in a table."""
        if part.labels:
            return
        known = set(train.labels.values()) if part is not train else set()
        part.depth = self._stripped(part.images, part.depth, known)
        names = self._classes_below(part.images, part.depth)
        if names and (part is train or known & set(names) or len(names) > 1):
            if part is train:
                self._check_one_meaning(part)
            part.labels = {f: f.parts[part.depth] for f in part.images if len(f.parts) > part.depth + 1}
            return
        images = set(part.images)
        tables = [(len(images & t.labels.keys()), t.role == part.name, t) for t in self.tables]
        best = max(tables, key=lambda entry: entry[:2], default=(0, False, None))
        if best[2] is not None and best[0]:
            table = best[2]
            part.labels = {file: table.labels[file] for file in part.images if file in table.labels}
            part.tabled = True
            part.source += f", labels from {self._told(table)}"
            if len(part.labels) < len(part.images):
                lacking = len(part.images) - len(part.labels)
                self.layout.notes.append(f"{lacking} images of {part.name} have no label in {table.file.name}")
        elif part is train:
            raise self._refuse_unlabelled(part.images)
        else:
            self.layout.notes.append(f"the {len(part.images)} images of {part.source} have no labels and are not used")

    @staticmethod
    def _told(table: Table) -> str:
        return f"the table {table.file.name} ({table.columns})"

    def _refuse_unlabelled(self, files: Sequence[File]) -> DataError:
        example = "/".join(files[0].parts)
        return self._refuse(
            f"holds training images of 0 classes: they lie in no class folders ({example}) and no table has a file and "
            f"a label column for them; give a tree {LAYOUT}, or add a CSV file with the columns 'file' and 'label'."
        )

    def _check_classes(self, classes: list[str], train: _Part) -> None:
        if len(classes) < 2:
            raise self._refuse(f"holds training images of {len(classes)} classes ({listed(classes)}) and two are "
                               f"needed; give with --data a tree {LAYOUT}, or a zip of it")  # fmt: skip
        if all(PIECES.fullmatch(name.lower()) for name in classes) and not train.tabled:
            raise self._refuse(f"has the folders {listed(classes)}, which look like pieces of one data set and not "
                               "like classes; give one of them, or rename them")  # fmt: skip
        if train.tabled:
            return
        kinds = [name for name in classes if is_generic(name)]
        if kinds:
            raise self._refuse(f"has the folders {listed(classes)}, of which {listed(kinds)} hold kinds of files and "
                               f"no class; give a tree {LAYOUT}")  # fmt: skip
        prefix = train.images[0].parts[: train.depth]
        empty = {f for f in self.source.folders if len(f) == train.depth + 1 and f[:-1] == prefix}
        names = {f[-1] for f in empty if not is_generic(f[-1])} - set(classes)
        for name in sorted(name for name in names if not role(name)):
            suffixes = self._suffixes((*prefix, name))
            files = listed([f"{count} {suffix}" for suffix, count in suffixes.items()]) or "it is empty"
            raise self._refuse(
                f"has no image for the class {name!r} ({files}); convert its files, or remove the folder"
            )
        for name in classes:
            suffixes = Counter({s: c for s, c in self._suffixes((*prefix, name)).items() if s not in HARMLESS})
            if suffixes:
                files = listed([f"{count} {suffix}" for suffix, count in suffixes.items()])
                self.layout.notes.append(f"files of the class {name!r} are not read ({files}); convert them")

    def _suffixes(self, folder: Folders) -> Counter[str]:
        return Counter(f.suffix for f in self.source.files if f.parts[: len(folder)] == folder and not f.is_image)

    def _check_one_meaning(self, part: _Part) -> None:
        """Refuses the same folders below every folder (folds, variants); says which are joined."""
        inside: dict[str, set[str]] = defaultdict(set)
        for file in part.images:
            if len(file.parts) > part.depth + 1:
                deeper = file.parts[part.depth + 1 : -1]
                inside[file.parts[part.depth]] |= {deeper[0]} if deeper else {""}
        everywhere = Counter(name for names in inside.values() for name in names if name)
        shared = sorted(name for name, count in everywhere.items() if count > 1 and not is_generic(name))
        nested = all("" not in names for names in inside.values())
        if len(inside) > 1 and nested and (len(shared) > 1 or len(shared) == 1 == len(everywhere)):
            raise self._refuse(f"has the same folders ({listed(shared)}) in each of {listed(sorted(inside))}, so that "
                               "either could be the classes; give one of these folders with --data")  # fmt: skip
        joined = {top: sorted(n for n in names if n and not is_generic(n)) for top, names in inside.items()}
        told = [f"{top} ({listed(names, 3)})" for top, names in sorted(joined.items()) if names]
        if told:
            self.layout.notes.append(f"folders inside of a class belong to it: {listed(told, 3)}")

    # What is left out

    def _count_rest(self, parts: Sequence[_Part]) -> None:
        used = {file for part in parts for file in part.labels}
        tables = {table.file for table in self._tables or ()}
        skipped = Counter(
            f"{f.suffix or 'without suffix'}" for f in self.source.files if not f.is_image and f not in tables
        )
        unused = Counter("images of " + ("/".join(f.parts[:-1][:2]) or "the top") for f in self.images if f not in used)
        self.layout.skipped = dict(skipped.most_common()) | dict(unused.most_common())
        told = " ".join(self.layout.notes)
        if unused and not re.search("no labels|no label in", told):
            rest = [f"{count} {name}" for name, count in unused.items()]
            self.layout.notes.append(f"not used: {listed(rest, 4)}, which belong to no part and class")
