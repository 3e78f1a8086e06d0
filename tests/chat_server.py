"""A local server of chat completions that plays a script."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from kdzero_gp.language_model import Endpoint


def chat(text, **more):
    return json.dumps({"choices": [{"message": {"content": text}}], **more})


def good(text):
    return 200, {}, chat(text, usage={"prompt_tokens": 7, "completion_tokens": 3})


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body, self.headers.get("Authorization")))
        step = self.server.script[min(len(self.server.asked), len(self.server.script)) - 1]
        # a function answers by itself, or gives what to answer
        step = step(self) if callable(step) else step
        if step is None:
            return
        status, headers, content = step
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content.encode())), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content.encode())


class ChatServers:
    """Local servers that play a list of answers, the last one again and again."""

    def __init__(self):
        self.running = []

    def __call__(self, *script, **options):
        """A server, and an endpoint for it whose pauses are only noted."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        server.daemon_threads = True
        server.script, server.asked, server.pauses, server.left = script, [], [], threading.Event()
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        self.running.append(server)
        server.url = f"http://127.0.0.1:{server.server_port}/v1"
        return server, Endpoint(server.url, "tiny", sleep=server.pauses.append, **{"timeout": 5.0, **options})

    def close(self):
        for server in self.running:
            server.shutdown()
            server.server_close()
