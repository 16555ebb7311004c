"""A program that speaks as much of vLLM's server as a rollout uses, with tokens made from seed, prompt and weights, and
faults on command. Started as a process of its own, it can be killed like the real one.

`POST /script` takes a list of faults, one for each of the next completions. The engine process of a real server is
there too, as a child that outlives it.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import io
import json
import logging
import os
import random
import subprocess
import sys
import time
from pathlib import Path

from aiohttp import web

STOP = 1


def drawn(seed: int, prompt: list[int], weights: str, most: int, greedy: bool = False) -> list[int]:
    """The tokens of a sample: of seed, prompt and weights alone."""
    source = random.Random(f"{0 if greedy else seed}|{prompt}|{weights}")
    length = source.randint(3, 40)
    tokens = [source.randint(3, 200) for _ in range(length)]
    return [*tokens, STOP][:most]


def logprob(token: int, temperature: float = 1.0) -> float:
    return (-1.0 - token / 256) / (temperature or 1.0)


def digest_of(url: str) -> int:
    """Of the pixels of a PNG in a data URL."""
    from PIL import Image

    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    return pixels(image)


def pixels(image) -> int:
    """Of mode, size and pixels."""
    text = f"{image.mode}{image.size}".encode() + image.tobytes()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big")


def fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


class Server:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        folder = Path(arguments.model)
        self.weights = fingerprint(folder) if folder.is_dir() else "none"
        self.label = os.environ.get("REASONRL_WEIGHTS_LABEL", "")
        self.faults: list[str] = []
        self.seen: list[dict] = []
        self.calls: list[str] = []
        self.paused = False
        self.load_fault = ""

    @web.middleware
    async def guard(self, request: web.Request, handler):
        key = os.environ.get("VLLM_API_KEY")
        if key and request.headers.get("Authorization") != f"Bearer {key}":
            return web.Response(status=401, text="no")
        self.calls.append(request.path)
        return await handler(request)

    async def control(self, request: web.Request) -> web.Response:
        told = await request.json()
        self.faults = told.get("faults", self.faults)
        self.load_fault = told.get("load_fault", self.load_fault)
        self.label = told.get("label", self.label)
        return web.json_response({"seen": self.seen, "calls": self.calls, "weights": self.weights, "label": self.label})

    async def completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if body["model"] != self.arguments.served_model_name:
            return web.json_response({"error": {"message": f"no {body['model']}"}}, status=404)
        if "prompt_logprobs" in body:
            rows = [None, *({str(token): {"logprob": logprob(token)}} for token in body["prompt"][1:])]
            return web.json_response({"choices": [{"prompt_logprobs": rows}]})
        if body["max_tokens"] > 1:
            self.seen.append({"prompt": body["prompt"], "seed": body["seed"], "at": time.monotonic()})
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "500":
            return web.json_response({"error": {"message": "out of luck"}}, status=500)
        if fault == "400":
            return web.json_response({"error": {"message": "seed must be even"}}, status=400)
        if fault == "html":
            return web.Response(text="<html>gateway</html>", content_type="text/html")
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        tokens = drawn(body["seed"], body["prompt"], self.weights, body["max_tokens"], body["temperature"] == 0)
        reason = "stop" if tokens[-1] == STOP else "length"
        chunks = [tokens[:1], *(tokens[at : at + 4] for at in range(1, len(tokens), 4))]
        for number, chunk in enumerate(chunks):
            last = number == len(chunks) - 1
            if fault not in ("", "nan") and number == 1:
                await self.misbehave(fault, request, reply)
                return reply
            while self.paused:
                await asyncio.sleep(0.01)
            event = self.event(chunk, reason if last else None, 1.0 if self.arguments.raw else body["temperature"])
            if fault == "nan" and last:
                event["choices"][0]["logprobs"]["token_logprobs"][-1] = None
            await reply.write(f"data: {json.dumps(event)}\n\n".encode())
            await asyncio.sleep(self.arguments.token_seconds * len(chunk))
        await reply.write(b"data: [DONE]\n\n")
        return reply

    @staticmethod
    def event(tokens: list[int], reason: str | None, temperature: float = 1.0) -> dict:
        logprobs = {"token_logprobs": [logprob(token, temperature) for token in tokens]}
        return {"choices": [{"token_ids": tokens, "logprobs": logprobs, "finish_reason": reason}]}

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Tokens and images: each first placeholder becomes that image's tokens."""
        if request.method != "POST":
            raise web.HTTPMethodNotAllowed(request.method, ["POST"])
        body = await request.json()
        how, pictures, ids = body["sampling_params"], [digest_of(part["url"]) for part in body["content_parts"]], []
        for token in body["token_ids"]:
            ids += [token] * (self.arguments.image_tokens if token == self.arguments.image_token else 1)
        self.seen.append({"prompt": ids, "seed": how["seed"], "pictures": pictures, "bias": how["logit_bias"]})
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        tokens = drawn(how["seed"], [*ids, *pictures], self.weights, how["max_tokens"])
        for number, token in enumerate(tokens):
            if self.faults and number == 1:
                await self.misbehave(self.faults.pop(0), request, reply)
                return reply
            said = {"content": [{"token": f"token_id:{token}", "logprob": logprob(token)}]}
            last = ("stop" if token == STOP else "length") if number == len(tokens) - 1 else None
            event = {"choices": [{"index": 0, "token_ids": [token], "logprobs": said, "finish_reason": last}]}
            event |= {"prompt_token_ids": ids} if number == 0 else {}
            await reply.write(f"data: {json.dumps(event)}\n\n".encode())
        await reply.write(b"data: [DONE]\n\n")
        return reply

    async def misbehave(self, fault: str, request: web.Request, reply: web.StreamResponse) -> None:
        if fault == "reset":
            request.transport.abort()
        elif fault == "stall":
            await asyncio.sleep(3600)
        elif fault == "drip":
            while True:
                await reply.write(b":")
                await asyncio.sleep(0.05)
        elif fault == "cut json":
            await reply.write(b'data: {"choices": [{"token_ids": [5, 6\n\n')
        elif fault == "abort":
            await reply.write(f"data: {json.dumps(self.event([], 'abort'))}\n\n".encode())
        elif fault == "error event":
            await reply.write(b'data: {"error": {"message": "engine died", "code": 500}}\n\n')
        elif fault == "uneven":
            await reply.write(b'data: {"choices": [{"token_ids": [5, 6], "finish_reason": null}]}\n\n')
        else:
            assert fault == "short", fault

    async def metrics(self, request: web.Request) -> web.Response:
        """A prompt that was seen before is in the cache, but for its last token."""
        prompts = [tuple(one["prompt"]) for one in self.seen]
        hits = sum(len(prompt) - 1 for place, prompt in enumerate(prompts) if prompt in prompts[:place])
        labels = f'engine="0",model_name="{self.arguments.served_model_name}"'
        lines = ["# HELP vllm:prefix_cache_hits_total Prefix cache hits", "# TYPE vllm:prefix_cache_hits_total counter"]
        lines += [f"vllm:prefix_cache_hits_total{{{labels}}} {float(hits)}"]
        lines += [f"vllm:prefix_cache_queries_total{{{labels}}} {float(sum(map(len, prompts)))}"]
        return web.Response(text="\n".join([*lines, "vllm:external_prefix_cache_hits_total{} 7.0", ""]))

    async def rpc(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["method"] == "reasonrl_load":
            if self.load_fault == "hang":
                await asyncio.sleep(3600)
            if self.load_fault == "500":
                return web.json_response({"error": "no"}, status=500)
            self.weights = fingerprint(Path(body["kwargs"]["folder"]))
            if self.load_fault != "forgets":
                self.label = body["kwargs"]["version"]
        elif body["method"] != "reasonrl_weights":
            return web.json_response({"error": "no such method"}, status=500)
        return web.json_response({"results": [{"version": self.label}]})

    async def pause(self, request: web.Request) -> web.Response:
        self.paused = True
        return web.json_response({"status": "paused"})

    async def resume(self, request: web.Request) -> web.Response:
        self.paused = False
        return web.json_response({"status": "resumed"})

    async def simple(self, request: web.Request) -> web.Response:
        name = self.arguments.served_model_name
        return web.json_response(
            {
                "/health": None,
                "/version": {"version": self.arguments.version},
                "/v1/models": {"data": [self.entry(name)]},
                "/reset_prefix_cache": {"success": True},
            }[request.path]
        )

    def entry(self, name: str) -> dict:
        return {"id": name, "root": self.arguments.model, "max_model_len": self.arguments.max_model_len}

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self.guard], client_max_size=2**26)
        app.router.add_post("/script", self.control)
        app.router.add_post("/v1/completions", self.completions)
        app.router.add_get("/metrics", self.metrics)
        if self.arguments.enable_scale_out:
            app.router.add_route("*", "/inference/v1/generate", self.generate)
        for path in ("/health", "/version", "/v1/models"):
            if path != "/version" or self.arguments.version != "none":
                app.router.add_get(path, self.simple)
        if os.environ.get("VLLM_SERVER_DEV_MODE") == "1":
            app.router.add_post("/collective_rpc", self.rpc)
            app.router.add_post("/pause", self.pause)
            app.router.add_post("/resume", self.resume)
            app.router.add_post("/reset_prefix_cache", self.simple)
        return app


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="none")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--served-model-name", default="policy")
    parser.add_argument("--version", default="0.31.0")
    parser.add_argument("--max-model-len", type=int, default=512)
    parser.add_argument("--token-seconds", type=float, default=0.0)
    parser.add_argument("--dies-at-start", action="store_true")
    parser.add_argument("--raw", action="store_true")
    parser.add_argument("--enable-scale-out", action="store_true")
    parser.add_argument("--image-token", type=int, default=-1)
    parser.add_argument("--image-tokens", type=int, default=1)
    arguments, _ = parser.parse_known_args()
    if arguments.dies_at_start:
        print("no such model architecture", file=sys.stderr)
        raise SystemExit(3)
    # As vLLM's engine process: it does not end with its server.
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(3600)"])
    print("engine process", child.pid, flush=True)
    app = Server(arguments).application()
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)
    web.run_app(app, host=arguments.host, port=arguments.port, print=None, access_log=None, handler_cancellation=True)


if __name__ == "__main__":
    main()
