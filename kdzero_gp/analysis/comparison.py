"""What two distillers share and where they differ, operation by operation in the order of the flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from markupsafe import Markup

from kdzero_gp.analysis import markup
from kdzero_gp.compiler import Expression, terms
from kdzero_gp.compiler.checking import KnowledgeTypes
from kdzero_gp.compiler.expression import format_argument
from kdzero_gp.draw import describe
from kdzero_gp.draw.graphs import role_of

_SIGNS = {"same": "=", "same operation": "≈", "changed": "≠", "only a": "−", "only b": "+"}


def step_text(node: Expression | None) -> str:
    """An operation with its constants, without what it is applied to.

    >>> step_text(Expression("softmax_C", (Expression("logits"), 4.0)))
    'softmax_C(…, 4)'
    """
    if node is None:
        return ""
    constants = [format_argument(argument) for argument in node.arguments if isinstance(argument, float)]
    return f"{node.name}(…, {', '.join(constants)})" if constants else node.name


@dataclass(frozen=True)
class AlignedRow:
    """One place of the flow: ``a`` and ``b`` are the subtrees that end there (None: the tree has nothing there)."""

    term: int
    role: str
    a: Expression | None
    b: Expression | None

    @property
    def relation(self) -> str:
        """``same`` (the whole subtree), ``same operation``, ``changed``, ``only a`` or ``only b``."""
        if self.a is None or self.b is None:
            return "only b" if self.a is None else "only a"
        if self.a == self.b:
            return "same"
        return "same operation" if step_text(self.a) == step_text(self.b) else "changed"


@dataclass(frozen=True, repr=False)
class TreeComparison:
    """Two distillers side by side. ``rows`` go through the terms from the knowledge to the magnitude; ``shared`` are
    the largest subtrees that stand in both. ``name_a`` and ``name_b`` are how the two are called."""

    a: Expression
    b: Expression
    rows: tuple[AlignedRow, ...]
    shared: tuple[Expression, ...]
    name_a: str = "a"
    name_b: str = "b"
    knowledge: KnowledgeTypes | None = None

    @property
    def differences(self) -> tuple[AlignedRow, ...]:
        """The rows in which an operation or a constant differs."""
        return tuple(row for row in self.rows if row.relation not in ("same", "same operation"))

    @property
    def similarity(self) -> float:
        """The share of operations that both have at the same place, 1 for equal trees, 0 for nothing in common."""
        same = len(self.rows) - len(self.differences)
        sizes = sum(row.a is not None for row in self.rows) + sum(row.b is not None for row in self.rows)
        return 2 * same / sizes

    def __repr__(self) -> str:
        lines = [f"a, {self.name_a}: {self.a}", f"b, {self.name_b}: {self.b}"]
        lines.append(f"similarity {self.similarity:.2f}; shared: {', '.join(map(str, self.shared)) or 'nothing'}")
        for before, row in zip([None, *self.rows], self.rows, strict=False):
            if before is None or before.term != row.term:
                lines.append(f"term {row.term}")
            texts = list(dict.fromkeys(filter(None, (step_text(row.a), step_text(row.b)))))
            lines.append(f"  {_SIGNS[row.relation]} {row.role}: {' → '.join(texts)}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [
            [row.term, row.role, markup.code(step_text(row.a)) if row.a else "",
             f"{_SIGNS[row.relation]} {row.relation}", markup.code(step_text(row.b)) if row.b else ""]
            for row in self.rows
        ]  # fmt: skip
        headers = ["term", "place", f"a: {self.name_a}", "", f"b: {self.name_b}"]
        drawn = [markup.picture(tree, 420, self.knowledge) for tree in (self.a, self.b)]
        pictures = [markup.tag("td", picture, style="vertical-align:top") for picture in drawn]
        a, b = (describe(tree, self.knowledge) for tree in (self.a, self.b))
        shared = Markup(", ").join(map(markup.code, self.shared)) or "nothing"
        return markup.plain(
            markup.tag("table", markup.tag("tr", *pictures)), markup.table(headers, rows, range(5)),
            markup.tag("p", f"Similarity {self.similarity:.2f}. Largest shared subtrees: ", shared, "."),
            markup.tag("p", f"a: {a}", Markup("<br>"), f"b: {b}"),
        )  # fmt: skip


def compare(a: Expression, b: Expression, name_a: str = "a", name_b: str = "b") -> TreeComparison:
    """Compare two distillers: each term with the other's term that has most in common with it."""
    rows = []
    for number, (one, other) in enumerate(_matched(terms(a), terms(b)), 1):
        rows += [AlignedRow(number, role_of(x or y), x, y) for x, y in _aligned(one, other)]  # type: ignore[arg-type]
    return TreeComparison(a, b, tuple(rows), tuple(_shared(a, set(b.walk()))), name_a, name_b)


def change(before: Expression, after: Expression) -> str:
    """The first difference between two distillers in a few words, and how many more there are; a whole term that is
    new or gone counts as one.

    >>> from kdzero_gp.compiler import zoo
    >>> change(zoo["kd"], zoo["wsld"])
    'kl → soft_cross_entropy, 1 more'
    """
    found = []
    rows = compare(before, after).rows
    for number in dict.fromkeys(row.term for row in rows):
        term = [row for row in rows if row.term == number]
        different = [row for row in term if row.relation not in ("same", "same operation")]
        whole = len({row.relation for row in term}) == 1 and term[0].relation in ("only a", "only b")
        found += [_in_words(row, whole) for row in (different if not whole else different[-1:])]
    more = f", {len(found) - 1} more" if len(found) > 1 else ""
    return found[0] + more if found else "nothing changed"


def _in_words(row: AlignedRow, whole: bool) -> str:
    sign = {"only a": "− ", "only b": "+ "}.get(row.relation, "")
    if whole:
        return sign + short(row.a or row.b)  # type: ignore[arg-type]
    return sign + " → ".join(filter(None, (step_text(row.a), step_text(row.b))))


def short(expression: Expression, most: int = 34) -> str:
    """What a distiller compares and by which distance, without calibrations and magnitudes, cut to ``most`` letters.

    >>> short(Expression("times", (Expression("no", (Expression("l2", (Expression("feat"),)),)), 1.0)))
    'l2(feat)'
    """
    text = " + ".join(str(term.children[0].children[0]) for term in terms(expression))
    return text if len(text) <= most else text[: most - 1] + "…"


def _shared(node: Expression, others: set[Expression]) -> list[Expression]:
    if node in others:
        return [node]
    return list(dict.fromkeys(found for child in node.children for found in _shared(child, others)))


Chain = list[Expression]
Aligned = list[tuple[Expression | None, Expression | None]]


def _chain(term: Expression) -> Chain:
    """A term's nodes from the knowledge to the magnitude."""
    return list(term.walk())[::-1]


def _matched(left: Sequence[Expression], right: Sequence[Expression]) -> list[tuple[Chain, Chain]]:
    """Terms in pairs, those with most in common first; what is left over has an empty partner."""
    chains, partners = [_chain(term) for term in left], [_chain(term) for term in right]
    order = sorted(
        ((-_common(_aligned(one, other)), i, j) for i, one in enumerate(chains) for j, other in enumerate(partners)),
    )
    pairs: dict[int, int] = {}
    for _, i, j in order:
        if i not in pairs and j not in pairs.values():
            pairs[i] = j
    alone = [j for j in range(len(partners)) if j not in pairs.values()]
    found = [(chain, partners[pairs[i]] if i in pairs else []) for i, chain in enumerate(chains)]
    return found + [([], partners[j]) for j in alone]


def _common(rows: Aligned) -> int:
    return sum(one is not None and other is not None and step_text(one) == step_text(other) for one, other in rows)


def _aligned(left: Chain, right: Chain) -> Aligned:
    """Align two chains by their equal operations (Ratcliff and Metzener 1988); between two equal ones, operations of
    one role face each other."""
    rows: Aligned = []
    matcher = SequenceMatcher(None, [step_text(node) for node in left], [step_text(node) for node in right], False)
    for kind, start, end, other_start, other_end in matcher.get_opcodes():
        ours, theirs = left[start:end], right[other_start:other_end]
        if kind == "equal":
            rows += list(zip(ours, theirs, strict=True))
            continue
        by_role = SequenceMatcher(None, [role_of(node) for node in ours], [role_of(node) for node in theirs], False)
        for kind_of_role, i, j, k, m in by_role.get_opcodes():
            if kind_of_role == "equal":
                rows += list(zip(ours[i:j], theirs[k:m], strict=True))
            else:
                rows += [(node, None) for node in ours[i:j]] + [(None, node) for node in theirs[k:m]]
    return rows
