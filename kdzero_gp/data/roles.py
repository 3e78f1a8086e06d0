"""What the names of folders and files say: train, validation, test, or no part."""

import re

TRAIN, VALIDATION, TEST, UNLABELLED = "train", "validation", "test", "unlabelled"
WORDS = {
    TRAIN: "train training trn tr",
    VALIDATION: "val valid validation dev develop development vali eval",
    TEST: "test testing tst te evaluation holdout",
    UNLABELLED: "pred predict prediction predictions unlabeled unlabelled unsupervised",
}
ROLES = {word: part for part, words in WORDS.items() for word in words.split()}
_FILLERS = (
    "set data images image imgs img folder dir directory split dataset part seg raw jpg jpeg png files x pics photos "
    "photo pictures samples sample cropped resized small large full final the of and my"
)
FILLERS = set(_FILLERS.split())
"""Words that may stand beside a part's name without making another name of it."""
_ENDINGS = re.compile(r"(sets?|data|images?|imgs?|folder|split)$")
_KINDS = (
    "images image imgs img data dataset files masks mask labels label annotations annotation instances jpegimages "
    "segmentation segmentations groundtruth gt bboxes boxes xml jsons json"
)
GENERIC = set(_KINDS.split())
"""Names of folders that hold kinds of files and no class."""
SPELLED = {TRAIN: r"train|training", VALIDATION: r"val|valid|validation|dev", TEST: r"test|testing"}
"""How the parts of label maps and boxes are called; any other word may be the name of something else there."""
PIECES = re.compile(r"(k?folds?|splits?|parts?|batch(es)?|chunks?|shards?|cv|versions?|v)[ _-]*\d+")
"""Names of folders that hold pieces of a data set, as fold_1."""


def _words(name: str) -> list[str]:
    separated = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold()
    return re.findall(r"[^\W\d_]+", separated)


def _role_of_word(word: str) -> str | None:
    if word == "trainval":
        return TRAIN
    return ROLES.get(word) or ROLES.get(_ENDINGS.sub("", word))


def role(name: str) -> str | None:
    """The part that a name means, in any of its spellings: training_set, TestImages, seg_train, val2017.

    >>> [role(name) for name in ("Training", "test_set", "images_dev", "apple", "train_test")]
    ['train', 'test', 'validation', None, None]
    """
    found = {part for word in _words(name) if (part := _role_of_word(word))}
    if found == {TRAIN, VALIDATION}:
        return TRAIN
    return found.pop() if len(found) == 1 else None


def is_plain(name: str) -> bool:
    """Whether a part's name has no words beside it that could make a class of it, as in "bullet train"."""
    return all(word in FILLERS or _role_of_word(word) for word in _words(name))


def is_generic(name: str) -> bool:
    """Whether a folder's name says what kind of files it holds."""
    return all(word in GENERIC for word in _words(name)) and bool(_words(name))
