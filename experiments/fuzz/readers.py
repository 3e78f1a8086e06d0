"""What reads files and texts from strangers, with valid inputs of each and how they are damaged."""

import contextlib
import json
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from damage import HOSTILE, NAMES, changed, damaged, damaged_json, garbled

from kdzero_gp.analysis.run import StoredRun
from kdzero_gp.compiler import from_genotype, parse, zoo
from kdzero_gp.data import images
from kdzero_gp.data.account import DataAccount
from kdzero_gp.data.annotations import find_annotations
from kdzero_gp.engine.outputs import TensorSplit
from kdzero_gp.engine.recipe import load_recipe, names
from kdzero_gp.language_model.answers import read_answer
from kdzero_gp.models.contract import SIDECAR, InputContract, read_contract
from kdzero_gp.models.weights import load_weights, save_weights
from kdzero_gp.proxy.task import ProxyTask
from kdzero_gp.search.config import CONFIG, config_text, read_config
from kdzero_gp.search.settings import RunSettings
from kdzero_gp.search.storage import DATABASE, Database, StoredReply
from kdzero_gp.training import folder as training

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from synthetic import synthetic_run
from test_evolution import grammar_of
from test_same_run import Workers, search

BOXES = {
    "images": [{"id": 1, "file_name": "1.png", "width": 8, "height": 8}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 1, 4, 4], "iscrowd": 0}],
    "categories": [{"id": 2, "name": "cat", "supercategory": "animal"}],
}
TRANSFORMS = ("no", "pow2", "abs", "norm_C", "norm_HW", "satt", "local_s2", "scale_r2", "softmax_C", "mish")
ACCOUNT = DataAccount(("cat", "dog"), {"train": (3, 4)})
# Values of the paper's genotypes.
FIELDS = {
    "knowledge_input": ("feat", "emb", "emd", "logits"), "trans_func1": TRANSFORMS, "trans_func2": TRANSFORMS,
    "trans_func3": TRANSFORMS, "distance_func": ("l1", "l2", "kl", "cos"), "weight": ("no", "entropy", "focal"),
    "temperature": (1, 4, 16), "magnitude": (100, 1, 0.01),
}  # fmt: skip


@dataclass
class _Text:
    """Reads damaged texts, without a file."""

    read: Callable

    def __call__(self, corpus, folder, chance):
        return self.read, garbled(chance.choice(corpus), chance)

    def of(self, content, folder):
        """What to read, and how, of these bytes."""
        return self.read, content.decode("utf-8", "replace")


def _genotype(corpus, folder, chance):
    values = (*NAMES, "no", "emd", "multi_scale_r4", "", "x" * 9999, None, -1, 1e999, 4, 100, [], {})
    given = {name: chance.choice(known) for name, known in FIELDS.items()}
    for name in chance.sample(sorted(FIELDS), chance.choice((0, 1, 1, 2, len(FIELDS)))):
        given[name] = chance.choice(values)
    return lambda given: from_genotype(**given), given


@dataclass
class _File:
    """Reads a damaged file of this name."""

    read: Callable
    name: str
    damage: Callable = damaged

    def __call__(self, corpus, folder, chance):
        return self.of(self.damage(chance.choice(corpus), corpus, chance), folder)

    def of(self, content, folder):
        """What to read, and how, of these bytes."""
        (folder / self.name).write_bytes(content)
        return self.read, folder / self.name


def look(folder, what=None):
    """What ``show`` and Python read of a run; all of it, or one part."""
    run = StoredRun(folder)
    parts = {
        "settings": lambda: run.settings, "counts": lambda: run.counts, "top": lambda: run.top(5),
        "race": lambda: run.race, "screens": lambda: run.screens, "drawn": lambda: run.drawn,
        "verdict": lambda: run.verdict,
    }  # fmt: skip
    return [part() for name, part in parts.items() if what in (None, name)]


def _placed(content, folder):
    for rest in ("-wal", "-shm", "-journal"):
        (folder / (DATABASE + rest)).unlink(missing_ok=True)
    (folder / DATABASE).write_bytes(content)


def _database(content, folder, chance):
    _placed(content, folder)
    what = chance.choice(("settings", "counts", "top", "race", "screens", "drawn", "verdict"))
    return lambda folder: look(folder, what), folder


def _bytes_of_database(corpus, folder, chance):
    return _database(damaged(chance.choice(corpus), corpus, chance), folder, chance)


def _values_of_database(corpus, folder, chance):
    """A sound database in which one value is hostile, or a JSON text holds other values."""
    found = _database(chance.choice(corpus), folder, chance)
    _change_value(folder, ("facts", "births", "evaluations", "measurements"), chance)
    return found


def _change_value(folder, tables, chance):
    with sqlite3.connect(folder / DATABASE) as database:
        database.execute("PRAGMA synchronous=OFF")
        table = chance.choice(tables)
        column = chance.choice([row[1] for row in database.execute(f"PRAGMA table_info({table})")])
        count = database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        where = f"rowid = (SELECT rowid FROM {table} LIMIT 1 OFFSET {chance.randrange(max(1, count))})"
        value = (database.execute(f"SELECT {column} FROM {table} WHERE {where}").fetchone() or [None])[0]
        other = chance.choice(HOSTILE)
        with contextlib.suppress(ValueError, TypeError):
            other = json.dumps(changed(json.loads(value), chance)) if chance.random() < 0.6 else other
        with contextlib.suppress(sqlite3.Error):
            database.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (other,))
    database.close()


def _resume(corpus, folder, chance):
    """A search that was interrupted, in whose database one value is hostile, is gone on with to its end."""
    _placed(chance.choice(corpus), folder)
    _change_value(folder, ("births", "evaluations", "answers", "answers", "costs", "replies"), chance)
    return go_on, folder


def go_on(folder):
    """A whole search on answers that are made up, and what is read of its costs and replies."""
    search(folder, Workers(1, 0), 5, births=12)
    with Database.read(folder) as database:
        return database.costs("evaluation"), database.stages(), database.step_times(), database.reply("asked", 0)


def _interrupted(folder, answers):
    """The bytes of a search's database after so many answers."""
    folder.mkdir()
    search(folder, Workers(3, answers, answers), 5, births=12)
    with Database.open(folder) as database:
        database.add_reply(StoredReply("asked", 0, "1. l2(logits)", "", 1, 10, 20))
    with sqlite3.connect(folder / DATABASE) as database:
        database.execute("PRAGMA journal_mode=DELETE")
        assert all(
            database.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("evaluations", "answers")
        )
    database.close()
    return (folder / DATABASE).read_bytes()


def _run(folder, births, raced):
    """The bytes of a small run's database."""
    run = synthetic_run(folder, births=births, population=births // 2, raced=raced)
    with sqlite3.connect(run / DATABASE) as database:
        database.execute("PRAGMA journal_mode=DELETE")
    database.close()
    look(run)  # imports what is imported late
    return (run / DATABASE).read_bytes()


def _proxy_task(path):
    """The bytes of a proxy task of four tiny images."""

    def split(count):
        outputs = {"logits": torch.randn(count, 3), "emb": torch.randn(count, 4)}
        return TensorSplit(torch.randn(count, 1, 4, 4), torch.randint(3, (count,)), outputs)

    student = {"task": "digits", "name": "digits_cnn_2", "classes": 3, "channels": 1, "taps": {}}
    shapes, recipe = {"logits": (3,), "emb": (4,)}, load_recipe("short")
    warm = {"weight": torch.randn(3, 4)}
    recipes = dict.fromkeys(("warm", "proxy", "race"), recipe)
    ProxyTask(split(4), split(2), split(2), student, shapes, shapes, recipes, warm).save(path)
    ProxyTask.load(path)
    return path.read_bytes()


def _trained(folder):
    """The bytes of the settings, the result and a checkpoint of a training."""
    measured = {"accuracy": 0.9}
    result = training.TrainingResult(measured, measured, measured, measured, 3, 4.0)
    training.write_result(folder, result, {"seed": 0}, {"device": "cpu"})
    training.save_checkpoint(folder, {"epoch": 1, "student": {"w": torch.randn(3, 3)}, "log": [{"epoch": 0}]})
    (folder / training.SETTINGS).write_text(json.dumps({"kind": "training", "settings": {"seed": 0}}))
    training.check_content(folder, "0123", ACCOUNT)
    names = training.SETTINGS, training.RESULT, training.CHECKPOINT
    return tuple((folder / name).read_bytes() for name in names)


def _in_folder(read):
    return lambda path: read(path.parent)


def readers(folder):
    """Each reader's cases, its valid inputs, and which share of all inputs it is given."""
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Linear(3, 4))
    torch.save({"state_dict": network.state_dict()}, folder / "new.pt")
    torch.save(network.state_dict(), folder / "old.pt", _use_new_zipfile_serialization=False)
    save_weights(network, folder / "some.safetensors")
    contract = InputContract(3, (8, 8), (0.5, 0.4, 0.3), (0.2, 0.2, 0.1), ("cat", "dog"))
    save_weights(network, folder / "told.safetensors", contract)
    saved = [(folder / name).read_bytes() for name in ("new.pt", "old.pt")]
    tensors = [(folder / f"{name}.safetensors").read_bytes() for name in ("some", "told")]
    beside = json.dumps(json.loads(next(iter(contract.as_metadata().values())))).encode()
    base = Path(load_recipe.__code__.co_filename).parent / "recipes"
    recipes = [(base / f"{name}.toml").read_bytes() for name in names()]
    config = config_text(RunSettings(teacher="digits_cnn_32", student="digits_cnn_4")).replace("\n# ", "\n").encode()
    databases = [_run(folder / "run", 8, True), _run(folder / "unraced", 24, False)]
    begun = [_interrupted(folder / str(answers), answers) for answers in (10, 12, 16)]
    settings, result, checkpoint = _trained(folder)
    (folder / "any.pt").write_bytes(b"")
    expressions, grammar = [str(one) for one in zoo.values()], grammar_of()
    said = ["1. " + "\n2. ".join(expressions[:5]), json.dumps(expressions[:5]), "Sure! ```" + expressions[0] + "```"]
    read_beside = lambda path: read_contract(path.with_name("any.pt"))  # noqa: E731
    read_result = _in_folder(training.read_result)
    return {
        "expressions": (_Text(parse), expressions, 0.2),
        "genotypes": (_genotype, [], 0.15),
        "answers of a language model": (_Text(lambda text: read_answer(text, grammar)), said, 0.05),
        "recipes": (_File(lambda path: load_recipe(str(path)), "given.toml"), recipes, 0.1),
        "settings of runs": (_File(read_config, CONFIG), [config], 0.05),
        "weights of torch": (_File(lambda path: load_weights(network, path), "given.pt"), saved, 0.1),
        "weights, safetensors": (_File(lambda path: load_weights(network, path), "given.safetensors"), tensors, 0.1),
        "contracts": (_File(read_contract, "given.safetensors"), tensors, 0.05),
        "contracts beside weights": (_File(read_beside, "any.pt" + SIDECAR, damaged_json), [beside], 0.03),
        "proxy tasks": (_File(ProxyTask.load, "given.pt"), [_proxy_task(folder / "task.pt")], 0.05),
        "settings of trainings": (_File(_in_folder(_settings), training.SETTINGS, damaged_json), [settings], 0.02),
        "results of trainings": (_File(read_result, training.RESULT, damaged_json), [result], 0.02),
        "boxes": (_File(_boxes, "train.json", damaged_json), [json.dumps(BOXES).encode()], 0.03),
        "checkpoints": (_File(_in_folder(_checkpoint), training.CHECKPOINT), [checkpoint], 0.02),
        "databases": (_bytes_of_database, databases, 0.015),
        "values in databases": (_values_of_database, databases, 0.015),
        "resume": (_resume, begun, 0.02),
    }  # fmt: skip


def _boxes(path):
    with images.find(path.parent) as source:
        return find_annotations(source)


def _settings(folder):
    return training.check_content(folder, "0123", ACCOUNT)


def _checkpoint(folder):
    return training.load_checkpoint(folder, torch.device("cpu"))
