-- Ends of tasks and what follows from them: dependants, waiters, statistics, giving back.

local function wake_waiters(t)
  if not t.wt then return end
  for _, token in ipairs(call('SMEMBERS', P .. 'waiters:' .. t.id)) do
    call('RPUSH', P .. 'box:' .. token, t.id)
    call('PEXPIRE', P .. 'box:' .. token, 120000)
  end
  call('DEL', P .. 'waiters:' .. t.id)
  call('HDEL', P .. 't:' .. t.id, 'wt')
end

local function cause_text(t, root)
  return 'upstream ' .. t.nm .. ' (' .. t.id .. ') is ' .. t.s .. (root and root ~= t.id and ', because of ' .. root or '')
end

-- A task that has ended holds its key no longer, and no deadline waits for it.
local function forget_special(t)
  special(t)
  if t.ky and call('GET', P .. 'key:' .. t.ky) == t.id then call('DEL', P .. 'key:' .. t.ky) end
  if t.dd then call('ZREM', P .. 'deadlines', t.id) end
end

-- One upstream has ended: count it, and cancel or release what waited for it. Pushes what was cancelled.
local function settle_one(t, root, stack, cancelled)
  if not t.k then return end
  local good = t.s == 'COMPLETED'
  for _, id in ipairs(call('LRANGE', P .. 'kids:' .. t.id, 0, -1)) do
    local open = call('HINCRBY', P .. 't:' .. id, 'n', -1)
    if open == 0 or not good then
      local kid = load(id)
      if not good and kid.r == 'all_succeeded' then
        if kid.s == 'BLOCKED' or kid.s == 'PENDING' and call('ZSCORE', P .. 'delay', id) then
          local text = cause_text(t, root)
          forget_special(kid)
          move(kid, 'CANCELLED', text, 'er', text, 'cb', t.id, 'fi', NOW_TEXT)
          cancelled[#cancelled + 1] = id
          stack[#stack + 1] = kid
        elseif kid.s == 'PENDING' then
          call('HSET', P .. 't:' .. id, 'cb', t.id) -- still held: cancelled at commit
        end
      elseif open == 0 and kid.s == 'BLOCKED' then
        make_ready(kid, '')
      end
    end
  end
end

-- `t` has just reached a terminal state. Adds the ids cancelled because of it to `cancelled`.
local function settle(t, cancelled)
  UNDO.follow(cancelled) -- first: what is cancelled with its workflow is not handed to anybody
  local stack, root = { t }, t.id
  while #stack > 0 do
    local one = table.remove(stack)
    wake_waiters(one)
    settle_one(one, root, stack, cancelled)
  end
  UNDO.follow(cancelled) -- other workflows, of which something was cancelled just now
end

local function add(key, field, number)
  if number > 0 then call('HINCRBY', key, field, int(number)) end
end

-- Which minutes have statistics: reading the last hour costs nothing where there are none.
local function note_minute(agent, minute)
  local key = P .. 'minutes:' .. agent
  call('ZADD', key, int(minute), int(minute))
  call('ZREMRANGEBYSCORE', key, '-inf', int(minute - 60))
  call('EXPIRE', key, HOUR_S + 120)
end

local function measure(t, field)
  local key = P .. 'm:' .. t.a .. ':' .. int(math.floor(NOW / 60000))
  if call('HINCRBY', key, field, 1) == 1 then
    call('EXPIRE', key, HOUR_S + 120)
    note_minute(t.a, math.floor(NOW / 60000))
  end
  if t.st > 0 then
    add(key, 'wait_ms', t.st - t.rd)
    add(key, 'run_ms', NOW - t.st)
  end
end

local function end_task(t, state, reason, ...)
  local cancelled = {}
  if t.x then forget_special(t) end
  move(t, state, reason, 'fi', NOW_TEXT, ...)
  settle(t, cancelled)
  return cancelled
end

-- The end of a task that was asked to end while it ran: by a person, or by its deadline.
local function end_asked(t, ...)
  if special(t).dx then
    measure(t, 'failed')
    return end_task(t, 'FAILED', t.cx, 'er', t.cx, ...)
  end
  return end_task(t, 'CANCELLED', t.cx, 'er', 'cancelled: ' .. t.cx, ...)
end

-- Tells the worker of a running task to end it; once.
local function tell_to_end(t, reason, ...)
  if t.cx then return end
  call('HSET', P .. 't:' .. t.id, 'cx', reason, ...)
  call('RPUSH', P .. 'inbox:' .. t.w, cjson.encode({ kind = 'cancel', task = t.id, fence = t.f, reason = reason }))
end

-- The worker is gone (`died`) or gives up its hold: back to the queue. A run without an outcome is no failure of the
-- task and counts against no limit, but keeps its number: no two runs share one. Only too many deaths end it.
local function give_back(t, reason, died)
  if t.cx then return end_asked(t) end
  if t.s == 'ASSIGNED' then
    t.at = t.at - 1 -- it never began
  else
    call('HINCRBY', P .. 't:' .. t.id, 'ex', 1)
    local deaths = died and call('HINCRBY', P .. 't:' .. t.id, 'ds', 1) or 0
    if deaths >= MAX_DEATHS then
      measure(t, 'failed')
      return end_task(t, 'FAILED', reason, 'er', 'poison: its worker died ' .. deaths .. ' times; the last time: ' .. reason)
    end
  end
  HANDOFF.take_effect(t)
  make_ready(t, reason, 'at', t.at, 'er', reason)
end

local function forget_worker(worker, agent)
  call('ZREM', P .. 'idle:' .. agent, worker)
  call('ZREM', P .. 'seen', worker)
  call('HDEL', P .. 'workers', worker)
end

local function release(worker, reason, died)
  local text = call('HGET', P .. 'workers', worker)
  if text then forget_worker(worker, string.match(text, '^%S+')) end
  call('DEL', P .. 'inbox:' .. worker)
  call('ZREM', P .. 'leases', worker)
  local ids = call('SMEMBERS', P .. 'own:' .. worker)
  table.sort(ids)
  for _, id in ipairs(ids) do give_back(load(id), reason, died) end
  return ids
end
