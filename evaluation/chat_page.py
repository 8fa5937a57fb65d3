"""The page of evaluation.chat: one file of HTML, on the loopback, that holds nothing of any other host."""

import asyncio
import threading
from pathlib import Path
from typing import Literal

import pydantic

from data_prep.schema import BadInput

PAGE = Path(__file__).with_name("chat_page.html")
OWN_ONLY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


class Turn(pydantic.BaseModel, extra="forbid"):
    role: Literal["user", "assistant"]
    content: str


class Asked(pydantic.BaseModel, extra="forbid"):
    messages: list[Turn] = pydantic.Field(min_length=1)


def application(chat, notice: str):
    """The page as a Starlette application: GET / and POST /answer."""
    import jinja2
    from starlette.applications import Starlette
    from starlette.concurrency import iterate_in_threadpool
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse, PlainTextResponse, StreamingResponse
    from starlette.routing import Route

    one_at_a_time, entry = asyncio.Lock(), chat.entry
    html = jinja2.Environment(autoescape=True).from_string(PAGE.read_text(encoding="utf-8"))

    async def show(request):
        text = html.render(name=entry.name, access=entry.access, notice=notice, system=chat.args.system)
        return HTMLResponse(text, headers={"Content-Security-Policy": OWN_ONLY, "Cache-Control": "no-store"})

    async def answer(request):
        if request.headers.get("content-type") != "application/json":  # a form of another site's page
            return PlainTextResponse("error: not JSON", 415)
        try:
            ids = chat.prompt(Asked.model_validate_json(await request.body()).model_dump()["messages"])
        except (BadInput, pydantic.ValidationError) as error:
            said = str(error) if isinstance(error, BadInput) else "not a conversation. Next: reload the page"
            return PlainTextResponse(f"error: {said}", 400)
        return StreamingResponse(pieces(ids), media_type="text/plain; charset=utf-8")

    async def pieces(ids):
        stop = threading.Event()
        answered = chat.answer(ids, stop)
        try:
            async with one_at_a_time:
                async for piece in iterate_in_threadpool(answered):
                    yield piece
        except (asyncio.CancelledError, GeneratorExit):
            print("The browser was closed: its answer was stopped.", flush=True)
            raise
        finally:
            stop.set()
            answered.close()

    near = [Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])]
    routes = [Route("/", show), Route("/answer", answer, methods=["POST"])]
    return Starlette(routes=routes, middleware=near)
