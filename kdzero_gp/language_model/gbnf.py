"""The search space as a grammar that servers decode by (GBNF, as llama.cpp reads it).

Types are finite, so every slot of the space is a nonterminal: what a server writes by this grammar has the right types.
Size and depth are not in it; the space's limits are checked afterwards.
"""

from __future__ import annotations

from kdzero_gp.evolution import Grammar, Slot
from primitives import LOSS


def gbnf(grammar: Grammar, count: int) -> str:
    """The grammar of ``count`` distillers, one a line. Repetitions are written out, since servers bound them."""
    names = {slot: f"s{number}" for number, slot in enumerate(sorted(grammar.heights, key=str))}
    alternatives: dict[Slot, list[str]] = {slot: [] for slot in names}
    for slot, terminals in grammar.terminals.items():
        for terminal in terminals:
            value = grammar.value_of[terminal.name]
            alternatives[slot].append(_quoted(f"{value:g}" if isinstance(value, float) else str(value)))
    for operation, slots, made in grammar.rules:
        arguments = ' ", " '.join(names[slot] for slot in slots)
        alternatives[made].append(f"{_quoted(operation.name + '(')} {arguments} {_quoted(')')}")
    root = f" {_quoted(chr(92) + 'n')} ".join([names[Slot(LOSS)]] * count)
    rules = [f"{names[slot]} ::= {' | '.join(found)}" for slot, found in alternatives.items() if found]
    return "\n".join([f"root ::= {root}", *rules, ""])


def _quoted(text: str) -> str:
    return f'"{text}"'
