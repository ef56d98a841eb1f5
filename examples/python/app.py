"""Event streams with Python's standard library. Its server speaks HTTP/1.0, as many small ones do."""

import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path not in ("/progress", "/clock"):
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            self.progress() if self.path == "/progress" else self.clock()
        except OSError:
            pass  # the client has gone

    def progress(self):
        for percent in (0, 50, 100):
            self.event(percent)
            time.sleep(2.2 if percent < 100 else 0)  # a step that is quiet for long

    def clock(self):
        while True:
            self.event(int(time.time() * 5))
            time.sleep(0.2)

    def event(self, data):
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("localhost", 3000), Handler).serve_forever()
