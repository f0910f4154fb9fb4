-- Gates: what keeps a READY task from running although a worker is free. A paused agent or one over its rate is a shut
-- gate: its queue stays as it is. A task whose lock is taken, or whose workflow is paused, is set aside, so that what
-- comes after it can run; it stays READY. Of those that wait for one lock, the first of each agent goes back to the
-- queue when the lock is free; so for each agent, either the lock is taken, or nobody waits, or one of them is queued.

-- Tasks that version 2 wrote have none, and small sequence numbers: by priority, then age, before all newer ones.
local function queue_score(t)
  return t.sc or int((10 - t.p) * 2 ^ 32 + t.q)
end

local function set_aside(t, why)
  t.x, t.lw = '1', why
  call('HSET', P .. 't:' .. t.id, 'x', 1, 'lw', why)
  call('ZADD', P .. 'aside:' .. t.a, queue_score(t), t.id)
  local lock = string.match(why, '^lock (.*)$')
  if not lock then return end
  call('ZADD', P .. 'wants:' .. lock .. ' ' .. t.a, queue_score(t), t.id)
  call('SADD', P .. 'wanted:' .. lock, t.a)
end

local function leave_aside(t)
  call('HDEL', P .. 't:' .. t.id, 'lw')
  call('ZREM', P .. 'aside:' .. t.a, t.id)
  local lock = string.match(t.lw, '^lock (.*)$')
  if lock then call('ZREM', P .. 'wants:' .. lock .. ' ' .. t.a, t.id) end
  t.lw = nil
end

local function free_locks(t)
  for name in string.gmatch(special(t).lk or '', '%S+') do FREED[#FREED + 1] = name end
end

-- Takes a READY task out of whatever queue it is in.
local function unqueue(t)
  if t.s ~= 'READY' then return end
  if special(t).lw then
    leave_aside(t)
  else
    call('ZREM', P .. 'ready:' .. t.a, t.id)
    free_locks(t) -- it may have been the one that was queued for a lock
  end
end

-- Why this READY task cannot run now, or nil.
local function hindrance(t)
  if t.wf and call('HGET', P .. 'wf:' .. t.wf, 'pz') then return 'flow' end
  for name in string.gmatch(special(t).lk or '', '%S+') do
    local holder = call('GET', P .. 'lock:' .. name)
    if holder and holder ~= t.id then return 'lock ' .. name end
  end
end

local function take_locks(t)
  for name in string.gmatch(special(t).lk or '', '%S+') do call('SET', P .. 'lock:' .. name, t.id) end
end

local function reopen_at(agent, due)
  call('ZADD', P .. 'reopen', int(due), agent)
  wake_timer(due)
end

-- Whether a task of `agent` may begin now; nil, true when it may and nothing is limited.
local function gate(agent)
  local v = call('HMGET', P .. 'gate:' .. agent, 'pz', 'iv', 'tat')
  if v[1] then return false end
  if not v[2] then return true end
  local tat = tonumber(v[3] or 0)
  if tat <= NOW then return true, tonumber(v[2]) end
  reopen_at(agent, tat)
  return false
end

-- One more task of a limited agent begins.
local function spend(agent, interval)
  if interval then call('HSET', P .. 'gate:' .. agent, 'tat', int(NOW + interval)) end
end
