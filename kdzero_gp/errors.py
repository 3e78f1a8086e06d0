"""Every error that a user can meet: one sentence that names what was expected, what came, and the remedy."""

from collections.abc import Iterable
from difflib import get_close_matches


class KdzeroError(Exception):
    """Base of all errors of kdzero-gp. The command line prints it as one sentence and exits with code 2."""


class ExpressionError(KdzeroError):
    """A text that is not a distiller; ``position`` is the offset of the first character that is wrong."""

    def __init__(self, message: str, position: int | None = None):
        self.position = position
        where = "" if position is None else f" at position {position}"
        super().__init__(f"{message}{where}")


class ExpressionTypeError(ExpressionError):
    """A well-formed expression in which an operation gets a value that it is not defined for."""


class GenotypeError(KdzeroError):
    """A genotype of the paper that has no meaning as a distiller."""


class ShapeError(KdzeroError):
    """A distiller that does not fit the shapes of a teacher-student pair."""


class GrammarError(KdzeroError):
    """A set of operations from which no complete distiller can be built."""


class DataError(KdzeroError):
    """A data path that is missing, unreadable or not in a known layout."""


class ModelError(KdzeroError):
    """A network that is unknown, has no usable taps, or does not fit its weights."""


class RunError(KdzeroError):
    """A run folder that is missing, foreign, in use, or damaged."""


class SettingError(KdzeroError):
    """A setting whose value makes no sense."""


def meant(name: str, known: Iterable[str], otherwise: str = "", prefix: str = "") -> str:
    """Which of the ``known`` names may have been meant by one that is not, as a question; or what to say ``otherwise``.
    ``prefix``: what is written before such a name.

    >>> meant("resnet2", ("resnet20", "vgg8")), meant("x", ("y",), "there is y"), meant("kdd", ("kd",), prefix="zoo:")
    ('did you mean resnet20?', 'there is y', 'did you mean zoo:kd?')
    """
    close = get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(prefix + one for one in close)}?" if close else otherwise


def install(extra: str) -> str:
    """The command that installs an optional part.

    >>> install("vision")
    "pip install 'kdzero-gp[vision]'"
    """
    return f"pip install 'kdzero-gp[{extra}]'"
