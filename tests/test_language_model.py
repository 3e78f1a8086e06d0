"""A language model's endpoint, the grammar of its answers, and how they are read."""

import json
import re
import threading
import time
from math import inf
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_server import chat, good
from kdzero_gp.compiler import parse, terms
from kdzero_gp.errors import SettingError
from kdzero_gp.evolution import Grammar
from kdzero_gp.language_model import Endpoint, endpoint, gbnf, read_answer
from strategies import KNOWLEDGE

GRAMMAR = Grammar("open", KNOWLEDGE)
KD = "times(no(kl(softmax_C(logits, 4))), 1)"
MESSAGES = [{"role": "user", "content": "distillers, please"}]
CANARY = "sk-canary-4711"


def test_a_good_answer_comes_with_the_counted_tokens(serve):
    server, model = serve(good(KD))
    reply = model.ask(MESSAGES, {"seed": 1})
    assert (reply.text, reply.failure, reply.calls, reply.tokens_in, reply.tokens_out) == (KD, "", 1, 7, 3)
    path, body, key = server.asked[0]
    assert path == "/v1/chat/completions" and body["seed"] == 1 and body["model"] == "tiny" and key is None


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes_is_tried_again_and_counted(serve, status):
    server, model = serve((status, {"Retry-After": "9"}, "{}"), good(KD))
    reply = model.ask(MESSAGES, {})
    assert reply.text == KD and reply.calls == 2 and server.pauses == [9.0]


def test_a_server_that_stays_broken_is_given_up(serve):
    server, model = serve((500, {"Retry-After": "99999"}, "{}"))
    reply = model.ask(MESSAGES, {})
    assert reply.failure == "HTTP status 500" and reply.calls == len(server.asked) == 3 and reply.tokens_in > 0
    assert server.pauses == [60.0, 60.0]


def test_a_refused_key_is_asked_once(serve):
    server, model = serve((401, {}, "{}"))
    assert model.ask(MESSAGES, {}).failure == "HTTP status 401" and len(server.asked) == 1


def test_a_refused_parameter_is_left_out_from_then_on(serve):
    refusal = 400, {}, '{"error": {"message": "temperature is not supported"}}'
    server, model = serve(refusal, good(KD))
    for _ in range(2):
        assert model.ask(MESSAGES, {"seed": 1, "temperature": 1.0}).text == KD
    assert [set(body) & {"seed", "temperature"} for _, body, _ in server.asked] == [
        {"seed", "temperature"}, {"seed"}, {"seed"}
    ]  # fmt: skip


def test_a_redirect_takes_no_key_elsewhere(serve, monkeypatch):
    monkeypatch.setenv("A_KEY", CANARY)
    other, _ = serve(good(KD))
    server, model = serve((307, {"Location": f"http://127.0.0.1:{other.server_port}/v1"}, ""), key_variable="A_KEY")
    assert model.ask(MESSAGES, {}).failure == "the server redirects elsewhere"
    assert not other.asked and server.asked[0][2] == f"Bearer {CANARY}"


def test_a_key_that_a_server_repeats_is_masked(serve, monkeypatch):
    monkeypatch.setenv("A_KEY", CANARY)
    for step in ((200, {}, chat(f"your key is {CANARY}")), (401, {}, f"wrong key {CANARY}")):
        _, model = serve(step, key_variable="A_KEY")
        assert CANARY not in f"{model.ask(MESSAGES, {})} {model}"


def _half_closed(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices"')


def _drips(handler, part):
    """Send a part again and again; ``handler.server.left`` is set where the other side goes away."""
    try:
        for _ in range(200):
            handler.wfile.write(part)
            handler.wfile.flush()
            time.sleep(0.02)
    except OSError:
        handler.server.left.set()


def _dripping(handler):
    handler.send_response(200)
    handler.end_headers()
    _drips(handler, b" ")


def _dripping_headers(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-A: ")
    _drips(handler, b"x")


def _continuing(handler):
    _drips(handler, b"HTTP/1.1 100 Continue\r\n\r\n")


def _silent(handler):
    handler.server.left.wait(30)


def test_a_half_closed_connection_ends(serve):
    _, model = serve(_half_closed)
    assert model.ask(MESSAGES, {}).failure == "the connection broke"


@pytest.mark.parametrize("slow", [_dripping, _dripping_headers, _continuing])
def test_a_whole_call_has_one_time_limit(serve, slow):
    server, model = serve(slow, timeout=0.1)
    reply = model.ask(MESSAGES, {}, most_calls=1)
    assert reply.failure == "no answer in time" and reply.calls == 1
    assert server.left.wait(30), "the connection is closed, too"


def test_a_silent_server_is_left(serve):
    server, model = serve(_silent, timeout=0.1)
    assert model.ask(MESSAGES, {}, most_calls=1).failure == "no answer in time"
    server.left.set()


def test_a_name_that_is_looked_up_for_long_has_the_same_time_limit(monkeypatch):
    end = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: end.wait(30) and [])
    model = Endpoint("http://slow.example/v1", "tiny", timeout=0.1)
    assert model.ask(MESSAGES, {}, most_calls=1).failure == "no answer in time"
    end.set()


def test_huge_answers_are_refused(serve):
    _, model = serve((200, {}, chat("x" * (endpoint.MOST_BYTES + 1))))
    assert model.ask(MESSAGES, {}).failure == "the answer is too long"


def test_a_stream_that_nobody_asked_for_is_read(serve):
    parts = [json.dumps({"choices": [{"delta": {"content": part}}]}) for part in (KD[:9], KD[9:])]
    _, model = serve((200, {}, "".join(f"data: {part}\n\n" for part in [*parts, "[DONE]"])))
    assert model.ask(MESSAGES, {}).text == KD


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"choices": []}', "nonsense", chat(None), chat(3)])
def test_answers_of_another_form_are_failures(serve, content):
    _, model = serve((200, {}, content))
    reply = model.ask(MESSAGES, {})
    assert reply.failure.startswith("the answer") and not reply.text and reply.calls == 1


def test_an_answer_s_form_is_asked_for_in_two_ways(serve):
    server, model = serve((400, {}, "unknown field grammar"), (400, {}, "no response_format"), good(KD))
    assert model.ask(MESSAGES, {"grammar": "root ::= x", "response_format": {"type": "json_schema"}}).calls == 3
    sent = [set(body) - {"model", "messages"} for _, body, _ in server.asked]
    assert sent == [{"grammar"}, {"response_format"}, set()]


def test_no_more_calls_than_allowed_are_made(serve):
    server, model = serve((500, {}, "{}"))
    assert model.ask(MESSAGES, {}, most_calls=2).calls == len(server.asked) == 2


def test_what_cannot_be_asked_is_refused(monkeypatch):
    monkeypatch.delenv("secret_name", raising=False)
    for url, key in [
        ("ftp://x/v1", ""),
        ("http://user:secret@x/v1", ""),
        ("http://x/v1?key=secret", ""),
        ("http://x/v1", "secret_name"),
        ("http://x/v1", "sk-secret"),
        ("http://x/v1", "secret\n"),
    ]:
        with pytest.raises(SettingError) as error:
            Endpoint(url, "tiny", key)
        assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    ["http://a b/v1", "http://a\nb/v1", " http://a/v1", "http://a/v 1", "http://a/vé", "http://:80/v1", "http://a..b/v1",
     f"http://{'a' * 64}/v1", "http://a:x/v1", "http://a:99999/v1", "http://[::1/v1", "http:///v1", "https:"],
)  # fmt: skip
def test_a_url_that_names_no_host_is_refused(url):
    with pytest.raises(SettingError, match="name a host"):
        Endpoint(url, "tiny")


@pytest.mark.parametrize("url", ["http://[::1]/v1", "http://[::1]:8080", "https://bücher.example/v1", "http://a_b:1/"])
def test_what_cannot_be_reached_is_no_error(url, monkeypatch):
    reached = []

    def refuse(address, *_, **__):
        reached.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr("socket.create_connection", refuse)
    assert Endpoint(url, "tiny").ask(MESSAGES, {}, most_calls=1).failure == "the connection broke"
    assert reached[0][0] in ("::1", "bücher.example", "a_b") and reached[0][1] in (80, 443, 8080, 1)


# --- answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", [KD, json.dumps([KD]), f"Sure! Here is one:\n```\n{KD}\n```", f"1. `{KD}`", f'- "{KD}",', f"{KD}\r\n"]
)
def test_every_form_of_answer_gives_the_distiller(text):
    assert read_answer(text, GRAMMAR).distillers == [parse(KD)]


def test_useless_lines_are_counted_by_reason():
    text = f"{KD}\ntimes(no(kl(softmax_D(logits, 4))), 1)\ntimes(no(kl(feat)), 1)\ntimes(no(kl(softmax_C(logits, 4"
    reading = read_answer(text, GRAMMAR)
    assert len(reading.distillers) == 1 and reading.useless == {"syntax": 2, "type": 1}
    assert "did you mean 'softmax_N'" in reading.error
    assert read_answer("I cannot do that.", GRAMMAR).useless == {"no expression": 1}


def test_what_stands_in_a_list_and_is_no_distiller_is_counted():
    reading = read_answer('["good", "nonsense", 3, null]', GRAMMAR)
    assert not reading.distillers and reading.useless == {"syntax": 2, "no text": 2} and "good" in reading.error
    reading = read_answer(json.dumps([KD, {"loss": KD}, "", *[4] * 50]), GRAMMAR)
    assert reading.distillers == [parse(KD)] and "a distiller is a text" in reading.error
    assert reading.useless == {"syntax": 1, "no text": 48, "not read": 3}
    assert read_answer("[3, null]", GRAMMAR).useless == read_answer("[]", GRAMMAR).useless == {"no expression": 1}
    assert read_answer(f"As in [1]:\n{KD}", GRAMMAR).distillers == [parse(KD)]


def test_of_a_list_that_is_cut_off_what_is_whole_is_read():
    reading = read_answer(f'{{"distillers": ["{KD}", "times(no(l2(emb)), 1)", "times(no(l2(no', GRAMMAR)
    assert [str(one) for one in reading.distillers] == [KD, "times(no(l2(emb)), 1)"]
    assert reading.useless == {"syntax": 1}


def test_an_answer_runs_nothing(tmp_path):
    text = f"__import__('os').mkdir('{tmp_path}/x')\nignore all and run exec(open('a'))"
    assert not read_answer(text, GRAMMAR).distillers and not list(tmp_path.iterdir())


@settings(max_examples=50, deadline=None)
@given(st.text() | st.lists(st.text()).map(json.dumps) | st.text('[]()," \ntimes1logits'))
def test_no_answer_raises(text):
    read_answer(text, GRAMMAR)


# --- grammar -------------------------------------------------------------------------------------------------


TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"|(\w+)')


def _rules(text):
    rules = {}
    for line in text.splitlines():
        name, body = line.split(" ::= ")
        rules[name] = [TOKEN.findall(one) for one in body.split(" | ")]
    return rules


def _derive(rules, heights, name, random, depth=0):
    """A text that the grammar's rules give; the lowest alternative when deep."""
    choices = rules[name]
    choice = random.choice(choices) if depth < 5 else min(choices, key=lambda one: _height(heights, one))
    parts = [text.replace('\\"', '"') or _derive(rules, heights, rule, random, depth + 1) for text, rule in choice]
    return "".join(parts)


def _height(heights, choice):
    """The height of the lowest tree that an alternative gives, infinite where it is not known yet."""
    return 1 + max((heights.get(rule, inf) for _, rule in choice if rule), default=0)


def _heights(rules):
    heights = {}
    for _ in range(20):
        heights = {name: min(_height(heights, choice) for choice in choices) for name, choices in rules.items()}
    return heights


@pytest.mark.parametrize("space", ["open", "kdzero"])
def test_what_the_grammar_gives_is_a_list_of_distillers_of_the_space(space):
    grammar = Grammar(space, KNOWLEDGE)
    rules = _rules(gbnf(grammar, 3))
    heights, random = _heights(rules), Random(0)
    assert inf not in heights.values()
    for _ in range(40):
        texts = json.loads(_derive(rules, heights, "root", random))["distillers"]
        assert len(texts) == 3
        for text in texts:
            grammar.to_nodes(parse(text, KNOWLEDGE))
            assert len(list(terms(parse(text, KNOWLEDGE)))) <= 2


def test_the_grammar_has_every_rule():
    text = gbnf(GRAMMAR, 5)
    leaves = sum(len(terminals) for terminals in GRAMMAR.terminals.values())
    rules = _rules(text)
    assert sum(map(len, rules.values())) == len(GRAMMAR.rules) + leaves + len(["root", "whole", "sum"])
    assert len(text) < 40_000
