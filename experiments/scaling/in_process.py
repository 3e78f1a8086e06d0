"""Searches without what comes before and after them, and workers that are none: requests are answered in the program
itself, one after the other, when they are sent.

What a search finds is the same with any workers, so that studies of many short searches on a busy machine need not
start processes.
"""

import shutil

from kdzero_gp.engine.machine import Machine
from kdzero_gp.progress import Progress
from kdzero_gp.search.prepare import PROXY_TASK, TEACHER
from kdzero_gp.search.run import Work
from kdzero_gp.search.storage import DATABASE, Database
from kdzero_gp.workers.engine import Event, News, answered


class InProcess:
    """An engine (see ``kdzero_gp.workers.engine``) without processes."""

    def __init__(self, setup, arguments):
        self.setup, self.arguments, self.news, self.function = setup, arguments, [], None

    def start(self, worker):
        self.function = self.function or self.setup(*self.arguments, worker=0)
        self.news.append(Event(worker, News.READY))

    def send(self, worker, request):
        self.news.append(Event(worker, *answered(self.function, request)))

    def events(self, seconds):
        found, self.news = self.news, []
        return found

    def silent(self, worker):
        return False

    def place(self, worker):
        return "here"

    def stop(self, worker):
        pass

    def close(self):
        pass


class SearchAlone(Work):
    """A search without published methods and race."""

    def measure_zoo(self):
        """Nothing."""

    def _race(self):
        """Nothing."""

    _heat = _prune = _confirm = _race


def searched(folder, settings, like, kind=SearchAlone, workers=0):
    """Carry out one search, or go on with it, on the pair that is prepared in ``like``; with 0 workers in this
    process."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / DATABASE).exists():
        if like != folder:
            for name in (TEACHER, PROXY_TASK):
                shutil.copy(like / name, folder / name)
        Database.create(folder, {"settings": settings.as_dict(), "versions": {}}).close()
    with Database.open(folder) as database:
        if not database.fact("finished"):
            work = kind(folder, database, settings, Machine("cpu", workers or 1), Progress())
            if not workers:
                work.engine = InProcess
            work.run()
