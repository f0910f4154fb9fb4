-- The queue: what is ready, who sleeps, hand-over and claim.

local function hold(t, worker, lease_ms)
  local due = NOW + lease_ms
  call('ZADD', P .. 'lease', int(due), t.id)
  call('SADD', P .. 'own:' .. worker, t.id)
  wake_timer(due)
end

local function lease_of(worker)
  local text = call('HGET', P .. 'workers', worker)
  return text and tonumber(string.match(text, ' (%d+)$')) or 30000
end

local function assign(t, worker)
  call('ZREM', P .. 'idle:' .. t.a, worker)
  t.w, t.at, t.f = worker, t.at + 1, t.f + 1
  move(t, 'ASSIGNED', '', 'w', worker, 'at', t.at, 'f', t.f)
  hold(t, worker, lease_of(worker))
  call('RPUSH', P .. 'inbox:' .. worker, '{"kind":"task","attempt":' .. t.at .. ',"fence":' .. t.f
    .. ',"spec":' .. call('GET', P .. 'p:' .. t.id) .. '}')
end

-- The idle worker that slept last is still warm.
local function idle_worker(agent)
  for _, worker in ipairs(call('ZREVRANGE', P .. 'idle:' .. agent, 0, 9)) do
    local seen = call('ZSCORE', P .. 'seen', worker)
    if seen and NOW - tonumber(seen) <= SEEN_MS then return worker end
  end
end

local function make_ready(t, reason, ...)
  t.rd = NOW
  move(t, 'READY', reason, 'rd', NOW_TEXT, ...)
  local worker = idle_worker(t.a)
  if worker then return assign(t, worker) end
  call('ZADD', P .. 'ready:' .. t.a, int((10 - t.p) * 4398046511104 + t.q), t.id) -- 2^42 sequence numbers a priority
end

local function as_claim(t)
  return { t.at, t.f, t.s, call('GET', P .. 'p:' .. t.id) }
end

local function take(agent, worker, lease_ms)
  local popped = call('ZPOPMIN', P .. 'ready:' .. agent)
  if not popped[1] then return nil end
  local v = call('HMGET', P .. 't:' .. popped[1], 'at', 'f', 'wf', 'nm')
  local t = { id = popped[1], s = 'READY', a = agent, w = worker, at = v[1] + 1, f = v[2] + 1, wf = v[3], nm = v[4] }
  move(t, 'IN_PROGRESS', '', 'w', worker, 'at', t.at, 'f', t.f, 'st', NOW_TEXT)
  hold(t, worker, lease_ms)
  return as_claim(t)
end

-- A task handed to this worker that it does not know of: the notice was lost on the way.
local function undelivered(worker, args, first)
  local owned = call('SMEMBERS', P .. 'own:' .. worker)
  if not owned[1] then return nil end
  local holding = {}
  for i = first, #args do holding[args[i]] = true end
  for _, id in ipairs(owned) do
    if not holding[id] then return load(id) end
  end
end

local function begin_run(t)
  if t.s ~= 'ASSIGNED' then return end
  t.st = NOW
  move(t, 'IN_PROGRESS', '', 'st', NOW_TEXT)
end

-- What is next for this worker: something it was given before, or the first of the queue; nil: registered idle.
local function next_task(agent, worker, lease_ms)
  local claim = take(agent, worker, lease_ms)
  if claim then
    call('ZREM', P .. 'idle:' .. agent, worker)
    return claim
  end
  call('ZADD', P .. 'idle:' .. agent, NOW_TEXT, worker)
  call('ZADD', P .. 'seen', NOW_TEXT, worker)
end
