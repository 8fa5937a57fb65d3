"""A stand-in for an OpenAI-compatible server, on a free local port, that fails on demand. Tests only.

with FakeServer(model="m") as server:
    server.url("chat")          address of an endpoint
    server.reply = lambda prompt: "B"
    server.faults[n] = 429      the n-th request (from 1) is answered so; "drop" closes the connection, "text"
                                answers no JSON
    server.redirect = URL       every request is sent on to another address
    server.complaint            prompt -> what a refusal says
    server.dead_after = 5       from the 6th on every connection is closed
    server.requests             [(path, body)]
    server.others               more entries of its list of models
    server.list                 (body, status) in place of that list
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeServer:
    def __init__(self, model="fake", **listed):
        self.model, self.listed, self.others, self.list = model, listed, [], None
        self.requests, self.faults, self.dead_after, self.authorization = [], {}, None, None
        self.reply = lambda prompt: "The answer is A"
        self.refuse = lambda prompt: None  # a prompt -> an HTTP status, or None
        self.redirect, self.complaint = None, lambda prompt: "injected"
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                fake.authorization = self.headers.get("Authorization")
                self.send(*(fake.list or [{"data": [*fake.others, {"id": fake.model, **fake.listed}]}]))

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with fake._lock:
                    fake.requests.append((self.path, body))
                    number = len(fake.requests)
                fault = fake.faults.get(number)
                prompt = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
                if fault == "drop" or (fake.dead_after is not None and number > fake.dead_after):
                    self.close_connection = True
                elif fault == "text":
                    self.send("<html>busy</html>")
                elif fake.redirect:
                    self.send_response(307)
                    self.send_header("Location", fake.redirect)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                elif fault or fake.refuse(prompt):
                    self.send({"error": {"message": fake.complaint(prompt)}}, fault or fake.refuse(prompt))
                elif "messages" in body:
                    message = {"role": "assistant", "content": fake.reply(prompt)}
                    self.send(
                        {
                            "model": fake.model,
                            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                        }
                    )
                else:
                    [prompt] = (
                        prompt if isinstance(prompt, list) and isinstance(prompt[0], list) else [prompt]
                    )
                    self.send({"model": fake.model, "choices": [fake.completion(prompt, body)]})

            def send(self, value, status=200):
                data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def completion(self, prompt, body):
        if not body.get("echo"):
            return {"index": 0, "text": self.reply(prompt), "finish_reason": "stop"}
        nats = (
            [None] + [-0.01 * token for token in prompt[1:]] + [-1.0]
        )  # of each token, and of the one that is generated
        return {
            "index": 0,
            "text": "",
            "logprobs": {"token_logprobs": nats, "top_logprobs": [None] + [{"t": n} for n in nats[1:]]},
        }

    def url(self, endpoint):
        path = {"chat": "chat/completions", "completions": "completions"}[endpoint]
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1/{path}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
