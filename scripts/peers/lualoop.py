"""The floor: the least that a durable queue does. One function acknowledges a task and pops the next.

What is popped stands in `active` until it is acknowledged: no state, no lease, no priority, no event.
"""

from __future__ import annotations

import stamp

#: keys: ready, active; args: task to acknowledge or '', list to answer to or ''
CODE = """#!lua name=floor
redis.register_function('floor_next', function(keys, args)
  if args[1] ~= '' then redis.call('LREM', keys[2], 1, args[1]) end
  if args[2] ~= '' then redis.call('RPUSH', args[2], '42') end
  return redis.call('LMOVE', keys[1], keys[2], 'LEFT', 'RIGHT')
end)
"""
NEXT = ("FCALL", "floor_next", 2, "ready", "active")
SLEEP = ("BLMOVE", "ready", "active", "LEFT", "RIGHT", 0)


def run(task: str) -> tuple[str, str]:
    """Run a task; what the next call says of it."""
    stamp.mark()
    kind, _, token = task.partition(":")
    return task, f"answer:{token}" if kind == "answer" else ""
