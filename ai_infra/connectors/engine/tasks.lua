#!lua name=ai_infra
-- The task engine's server side: every transition of a task is one call, atomic, and may be repeated safely
-- (a repeated call whose first answer was lost finds its own traces and gives the same answer).
-- Keys are described at the head of redis.py. KEYS[1] of every function is the prefix of all keys; the other
-- keys follow from it and from ids, which one server allows and a cluster would not.
-- The files of this folder are one library, joined in the order that redis.py names; this is the first.
-- A script is not rolled back: every function checks first, then writes.

local VERSION = 3
local DIGEST = '@DIGEST@'
local EVENTS_KEPT = 20000 -- entries of the stream, each of up to EVENTS_AN_ENTRY moves
local EVENTS_AN_ENTRY = 16
local SEEN_MS = 30000 -- an idle worker unheard of for longer is handed nothing
local SUBMIT_MS = 600000 -- a submit not completed in this time is undone
local HELD_MS = 5000 -- how soon to look again at a deadline of what is held by a submit
local HOUR_S = 3600
local MAX_DELAY_MS = 60000 -- between retries, unless the task says another
local RETRY_MS = 1000 -- before the first retry, likewise
local MAX_DEATHS = 5 -- a task that this many workers died of is their cause
local OWNED_MS = 120000 -- an installation unheard of for longer has left
local CHUNK = 500
local EPOCH_MS = 1767225600000 -- 2026-01-01: sequence numbers count from here, 64 a millisecond
local NEVER = 2 ^ 49 -- a step of priority that no age makes up for

local call -- redis.call, which is not there yet while the library is loaded
local P -- the prefix, set at the head of every call
local NOW -- server time in ms, likewise
local NOW_TEXT -- the same as a word for commands
local LUCK -- 0 to 1, another one with every call
local MOVED -- events of this call, not written yet
local FREED -- locks that may have become free in this call
local ENDED -- tasks with marks that ended in this call; `seen`: how many of them undo.lua has looked at
local UNDO, SUBMITS = {}, {} -- what undo.lua and submit.lua do, for those that stand before them

local TERMINAL = { COMPLETED = 'done', FAILED = 'dead', CANCELLED = 'gone' }
local ACTIVE = { ASSIGNED = true, IN_PROGRESS = true }
local MOVES = {
  PENDING = { READY = true, BLOCKED = true, FAILED = true, CANCELLED = true },
  BLOCKED = { READY = true, FAILED = true, CANCELLED = true },
  READY = { ASSIGNED = true, IN_PROGRESS = true, FAILED = true, CANCELLED = true },
  ASSIGNED = { IN_PROGRESS = true, READY = true, FAILED = true, CANCELLED = true },
  IN_PROGRESS = { COMPLETED = true, FAILED = true, CANCELLED = true, READY = true, PENDING = true },
  COMPLETED = {},
  FAILED = { READY = true, BLOCKED = true, PENDING = true },
  CANCELLED = { READY = true, BLOCKED = true, PENDING = true },
}

local function begin(keys)
  call = redis.call
  P = keys[1]
  local time = call('TIME')
  NOW = time[1] * 1000 + math.floor(time[2] / 1000)
  NOW_TEXT = string.format('%.0f', NOW)
  LUCK = (time[2] * 7919 % 1000) / 999
  MOVED, FREED, ENDED = {}, {}, { seen = 0 }
  UNDO.told, UNDO.stopping = {}, nil
end

local function int(number)
  return string.format('%.0f', number)
end

local function conflict(text)
  return redis.error_reply('CONFLICT ' .. text)
end

local function not_found(text)
  return redis.error_reply('NOTFOUND ' .. text)
end

local function load(id)
  local v = call('HMGET', P .. 't:' .. id, 's', 'a', 'p', 'q', 'n', 'r', 'at', 'mx', 'w', 'f', 'wf', 'nm', 'rd',
    'st', 'cx', 'wt', 'cb', 'nd', 'sb', 'x', 'sc', 'k')
  if not v[1] then return nil end
  return {
    id = id, s = v[1], a = v[2], p = tonumber(v[3]), q = tonumber(v[4]), n = tonumber(v[5]), r = v[6],
    at = tonumber(v[7]), mx = tonumber(v[8]), w = v[9], f = tonumber(v[10]), wf = v[11], nm = v[12],
    rd = tonumber(v[13] or 0), st = tonumber(v[14] or 0), cx = v[15], wt = v[16], cb = v[17], nd = v[18], sb = v[19],
    x = v[20], sc = v[21], k = v[22],
  }
end

-- What few tasks have, and only their x says so: locks, a unique key, a deadline, a pause or a lock they wait for,
-- marks for undo.lua.
local function special(t)
  if not t.x or t.lk ~= nil then return t end
  local v = call('HMGET', P .. 't:' .. t.id, 'lk', 'ky', 'dd', 'dx', 'lw', 'nb', 'ua')
  t.lk, t.ky, t.dd, t.dx, t.lw, t.nb = v[1], v[2], tonumber(v[3] or nil), v[4], v[5], tonumber(v[6] or nil)
  t.ua = v[7]
  return t
end

-- The part of a task that claim and finish look at; every field more costs them time.
local function load_held(id)
  local v = call('HMGET', P .. 't:' .. id, 's', 'a', 'w', 'f', 'at', 'mx', 'wf', 'nm', 'rd', 'st', 'cx', 'wt',
    'x', 'k')
  if not v[1] then return nil end
  return { id = id, s = v[1], a = v[2], w = v[3], f = tonumber(v[4]), at = tonumber(v[5]), mx = tonumber(v[6]),
    wf = v[7], nm = v[8], rd = tonumber(v[9] or 0), st = tonumber(v[10] or 0), cx = v[11], wt = v[12], x = v[13], k = v[14] }
end

local function event(t, from, to, reason)
  MOVED[#MOVED + 1] = 'move'
  MOVED[#MOVED + 1] = table.concat({ t.id, t.wf or '', t.nm, t.a, from, to, t.at, t.w or '', reason or '' }, '\31')
end

local function write_events()
  for first = 1, #MOVED, 2 * EVENTS_AN_ENTRY do
    call('XADD', P .. 'events', 'MAXLEN', '~', EVENTS_KEPT, '*',
      unpack(MOVED, first, math.min(#MOVED, first + 2 * EVENTS_AN_ENTRY - 1)))
  end
  MOVED = {}
end

-- How many tasks are READY or held is not counted but seen from their indexes: those states change most.
local UNCOUNTED = { READY = true, ASSIGNED = true, IN_PROGRESS = true }

local function count(t, state, by)
  if UNCOUNTED[state] then return end
  call('HINCRBY', P .. 'n:' .. t.a, state, by)
  if t.wf then call('HINCRBY', P .. 'wn:' .. t.wf, state, by) end
end

-- The lease stays: it is the worker's, and ends by itself when nothing is held.
local function leave_active(t)
  call('SREM', P .. 'own:' .. t.w, t.id)
  for name in string.gmatch(special(t).lk or '', '%S+') do
    if call('GET', P .. 'lock:' .. name) == t.id then
      call('DEL', P .. 'lock:' .. name)
      FREED[#FREED + 1] = name
    end
  end
end

-- What a state's index loses when a task leaves it. READY is left by ZPOPMIN or by hand-over, else see unqueue().
local LEAVE = {
  PENDING = function(t)
    call('ZREM', P .. 'delay', t.id)
    call('ZREM', P .. 'held', t.id)
  end,
  BLOCKED = function(t) call('ZREM', P .. 'blocked', t.id) end,
  READY = function() end,
  ASSIGNED = leave_active,
  IN_PROGRESS = leave_active,
  FAILED = function(t) call('ZREM', P .. 'dead', t.id) end,
  CANCELLED = function(t) call('ZREM', P .. 'gone', t.id) end,
}


-- The one place where a state changes; `...` are more fields and values of the task's hash.
-- ASSIGNED to IN_PROGRESS keeps its lease and owner.
local function move(t, to, reason, ...)
  local from = t.s
  if not MOVES[from][to] then error('task ' .. t.id .. ' cannot move from ' .. from .. ' to ' .. to) end
  if not (ACTIVE[from] and ACTIVE[to]) then LEAVE[from](t) end
  t.s = to
  call('HSET', P .. 't:' .. t.id, 's', to, ...)
  count(t, from, -1)
  count(t, to, 1)
  if to == 'BLOCKED' then call('ZADD', P .. 'blocked', int(t.q), t.id) end
  if TERMINAL[to] then
    call('ZADD', P .. TERMINAL[to], NOW_TEXT, t.id)
    if t.x then ENDED[#ENDED + 1] = t end
  end
  event(t, from, to, reason)
end

-- `timer` is the instant at which the ticker has promised to look again; absent: not at all.
local function wake_timer(due)
  local promised = call('GET', P .. 'timer')
  if promised and tonumber(promised) <= due then return end
  call('SET', P .. 'timer', int(due))
  call('RPUSH', P .. 'timer:inbox', '1')
  call('LTRIM', P .. 'timer:inbox', -1, -1)
end

-- A PENDING task is looked at again then.
local function put_off(t, due)
  call('ZADD', P .. 'delay', int(due), t.id)
  wake_timer(due)
end
