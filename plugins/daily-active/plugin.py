"""daily-active: counts on how many different users each day (UTC) came online.

A mark in keyvalue for each user and day, `seen/2026-11-25/alice`: setting it twice does no harm, so an event may come
again, on any host. With `tick` (`interval` in presence.toml, an hour is enough) the marks of days that are over become a
number, `total/2026-11-24`, and go. An event that comes when its day is counted already is not counted any more.

config: none. Needs a grant for the keyvalue bucket `days`, which holds 100,000 keys: so many users a day at most.
"""

from datetime import datetime, timezone

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import keyvalue, log
from wit_world.imports.log import Level
from wit_world.imports.types import HookError_Retry, Later

BUCKET = "days"


def step(call, *arguments):
    """A step in keyvalue; what can't be done now is tried again."""
    try:
        return call(BUCKET, *arguments)
    except Err as error:
        raise Err(HookError_Retry(Later(f"keyvalue: {error.value}", None)))


def day_of(timestamp):
    """The day of a time in milliseconds since 1970."""
    return datetime.fromtimestamp(timestamp / 1000, timezone.utc).date().isoformat()


def marks():
    """All marks, in order."""
    after = None
    while True:
        page = step(keyvalue.keys, "seen/", after)
        yield from page.keys
        after = page.next
        if after is None:
            return


class UserOnline(exports.UserOnline):
    def handle(self, ctx, event):
        step(keyvalue.set, f"seen/{day_of(event.since)}/{event.user}", b"")


class Tick(exports.Tick):
    def handle(self, ctx, event):
        today = day_of(event.due)
        days = {}
        for mark in marks():
            day = mark.split("/", 2)[1]
            if day < today:
                days.setdefault(day, []).append(mark)
        for day, seen in days.items():
            # First the number, once; then the marks. Whoever is cut off in between goes on here and counts nothing twice.
            if step(keyvalue.compare_and_set, f"total/{day}", None, str(len(seen)).encode()) is not None:
                log.log(Level.INFO, "daily active users", [("day", day), ("users", str(len(seen)))])
            for mark in seen:
                step(keyvalue.delete, mark)
