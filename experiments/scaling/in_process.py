"""Workers that are none: requests are answered in the program itself, one after the other, when they are sent.

What a search finds is the same with any workers, so that studies of many short searches on a busy machine need not
start processes.
"""

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
