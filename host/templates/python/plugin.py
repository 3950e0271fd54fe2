"""{{name}}: remembers when it last saw a user, and says so.

Every event may come more than once, and several guests of this plugin run side by side: what has to last is in
keyvalue, and doing a step twice does no harm. The contract is in wit/deps.
"""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import keyvalue, log
from wit_world.imports.log import Level
from wit_world.imports.types import HookError_Retry, Later

greeting = "hello"


def step(call, *arguments):
    """A step in keyvalue; what can't be done now is tried again."""
    try:
        return call("seen", *arguments)
    except Err as error:
        raise Err(HookError_Retry(Later(f"keyvalue: {error.value}", None)))


class Configure(exports.Configure):
    """Gets `config` of presence.toml as JSON. A text that is raised refuses it."""

    def configure(self, json_text):
        global greeting
        config = json.loads(json_text)
        greeting = config.get("greeting", greeting)
        if not isinstance(greeting, str) or not greeting:
            raise Err("config.greeting: a text is needed")


class UserOnline(exports.UserOnline):
    def handle(self, ctx, event):
        before = step(keyvalue.get, event.user)
        words = "is new" if before is None else "is back"
        log.log(Level.INFO, f"{greeting}: {event.user} {words}", [])
        step(keyvalue.set, event.user, str(event.since).encode())


class UserOffline(exports.UserOffline):
    def handle(self, ctx, event):
        log.log(Level.INFO, f"{event.user} has left", [("revision", str(event.revision))])
