"""Readers of texts and files from strangers on inputs that Hypothesis makes: the one kind of error, or an answer.

``experiments/fuzz`` tries a million damaged ones; here failures shrink.
"""

import contextlib
import json
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdzero_gp.errors import KdzeroError

sys.path.append(str(Path(__file__).parent.parent / "experiments" / "fuzz"))
import guided
import readers

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)


def inputs(valid):
    """Texts and, where valid inputs are objects in JSON, these with any values in some of their places."""
    texts = st.text(max_size=200) | st.text("()[]{}=\"',.: \n0123456789enaftlogits", max_size=200)
    with contextlib.suppress(ValueError):
        whole = json.loads(valid)
        if isinstance(whole, dict):
            changed = st.fixed_dictionaries({}, optional=dict.fromkeys(whole, VALUES)).map(lambda made: whole | made)
            return (changed | VALUES).map(json.dumps) | texts
    return texts


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    return readers.readers(tmp_path_factory.mktemp("valid"))


@pytest.mark.parametrize("name", guided.READERS)
def test_what_hypothesis_makes_is_read_or_refused(known, name, tmp_path_factory):
    case, corpus, _ = known[name]
    folder = tmp_path_factory.mktemp("read")
    (folder / "1.png").write_bytes(b"")  # what boxes are of
    valid = corpus[0] if isinstance(corpus[0], str) else corpus[0].decode()

    @settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
    @given(inputs(valid))
    def read(content):
        reader, what = case.of(content.encode("utf-8", "surrogatepass"), folder)
        with contextlib.suppress(KdzeroError):
            reader(what)

    read()
