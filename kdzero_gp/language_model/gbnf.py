"""The search space as a grammar that servers decode by (GBNF, as llama.cpp reads it).

Types are finite, so every slot of the space is a nonterminal: what a server writes by this grammar has the right types.
Size and depth are not in it, but for sums, which small models never end: they have two terms at most here. The space's
limits are checked afterwards.
"""

from __future__ import annotations

from kdzero_gp.evolution import Grammar, Slot
from kdzero_gp.language_model.answers import ReadAnswer
from primitives import LOSS

# The JSON around the distillers.
OPENING, BETWEEN, CLOSING = '{"distillers": ["', '", "', '"]}'


def gbnf(grammar: Grammar, count: int) -> str:
    """The grammar of ``{"distillers": ["…", …]}`` with ``count`` distillers. Repetitions are written out, since servers
    bound them."""
    names = {slot: f"s{number}" for number, slot in enumerate(sorted(grammar.heights, key=str))}
    alternatives: dict[str, list[str]] = {name: [] for name in names.values()}
    for slot, terminals in grammar.terminals.items():
        for terminal in terminals:
            value = grammar.value_of[terminal.name]
            alternatives[names[slot]].append(_quoted(f"{value:g}" if isinstance(value, float) else str(value)))
    whole = names[Slot(LOSS)]
    for operation, slots, made in grammar.rules:
        arguments = ' ", " '.join(names[slot] for slot in slots)
        rule = f"{_quoted(operation.name + '(')} {arguments} {_quoted(')')}"
        if set(slots) == {Slot(LOSS)}:
            alternatives.setdefault("sum", []).append(rule)
        else:
            alternatives[names[made]].append(rule)
    first = whole if "sum" not in alternatives else "any"
    if first == "any":
        alternatives["any"] = [whole, "sum"]
    root = f"{_quoted(OPENING)} {f' {_quoted(BETWEEN)} '.join([first] * count)} {_quoted(CLOSING)}"
    rules = [f"{name} ::= {' | '.join(found)}" for name, found in alternatives.items() if found]
    return "\n".join([f"root ::= {root}", *rules, ""])


def breaks(text: str, reading: ReadAnswer) -> bool:
    """Whether an answer cannot come from the grammar: a server may take one and ignore it. An answer that was cut off
    begins as the grammar says."""
    text = text.strip()
    if not text.startswith(OPENING[: len(text)]):
        return True
    return text.endswith(CLOSING) and bool({"syntax", "type", "no text"} & reading.useless.keys())


def _quoted(text: str) -> str:
    escaped = text.replace('"', '\\"')
    return f'"{escaped}"'
