-- The queue: what is ready, who sleeps, hand-over and claim.

-- Leases belong to workers: all that one holds is renewed, and lost, together. Who has just held something
-- (`goes_on`) has one.
local function hold(t, worker, lease_ms, goes_on)
  if not goes_on and call('ZADD', P .. 'leases', 'GT', int(NOW + lease_ms), worker) == 1 then
    wake_timer(NOW + lease_ms)
  end
  call('SADD', P .. 'own:' .. worker, t.id)
  take_locks(t)
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

-- The first task of the queue that can run, out of the queue now; those met on the way that cannot are set aside.
local function pop_runnable(agent)
  local open, interval = gate(agent)
  if not open then return nil end
  for _ = 1, CHUNK do
    local popped = call('ZPOPMIN', P .. 'ready:' .. agent)
    if not popped[1] then return nil end
    local v = call('HMGET', P .. 't:' .. popped[1], 'at', 'f', 'wf', 'nm', 'x')
    local t = { id = popped[1], s = 'READY', a = agent, sc = popped[2], at = tonumber(v[1]), f = tonumber(v[2]),
      wf = v[3], nm = v[4], x = v[5] }
    local why = t.x and hindrance(t)
    if not why then
      spend(agent, interval)
      return t
    end
    set_aside(t, why)
    free_locks(t)
  end
  reopen_at(agent, NOW) -- the ticker goes on, so that one call never takes long
end

-- Hands queued tasks to sleeping workers, for as long as there are both.
local function serve(agent)
  while call('EXISTS', P .. 'ready:' .. agent) == 1 do
    local worker = idle_worker(agent)
    local t = worker and pop_runnable(agent)
    if not t then return end
    assign(t, worker)
  end
end

-- A READY task that is in no queue: to a sleeping worker, to the queue, or aside.
local function offer(t)
  local why = (t.x or t.wf) and hindrance(t)
  if why then
    set_aside(t, why)
    free_locks(t)
    return
  end
  local worker = idle_worker(t.a)
  local open, interval = true, nil
  if worker then open, interval = gate(t.a) end
  if worker and open and not interval then return assign(t, worker) end
  call('ZADD', P .. 'ready:' .. t.a, queue_score(t), t.id)
  if worker and open then serve(t.a) end -- others may have waited longer for the gate
end

local function make_ready(t, reason, ...)
  t.rd = NOW
  move(t, 'READY', reason, 'rd', NOW_TEXT, ...)
  offer(t)
end

-- The first task of each agent that waits for a lock, in the order in which they would stand in one queue.
local function firsts_waiting(name)
  local firsts = {}
  for _, agent in ipairs(call('SMEMBERS', P .. 'wanted:' .. name)) do
    local first = call('ZRANGE', P .. 'wants:' .. name .. ' ' .. agent, 0, 0, 'WITHSCORES')
    if first[1] then
      firsts[#firsts + 1] = { id = first[1], score = tonumber(first[2]) }
    else
      call('SREM', P .. 'wanted:' .. name, agent)
    end
  end
  table.sort(firsts, function(a, b) return a.score < b.score end)
  return firsts
end

-- Locks that this call freed: of each agent that waits for one, the first task goes back to its queue. Should very
-- many turn out to wait for another lock as well, the ticker goes on with them.
local function wake_freed()
  local left = CHUNK
  while #FREED > 0 do
    local name = table.remove(FREED)
    for _, first in ipairs(firsts_waiting(name)) do
      if call('EXISTS', P .. 'lock:' .. name) == 1 then break end
      if left == 0 then
        call('SADD', P .. 'freed', name)
        wake_timer(NOW)
        break
      end
      local t = special(load(first.id))
      if t.lw then
        leave_aside(t)
        offer(t)
        left = left - 1
      end
    end
  end
end

local function as_claim(t)
  return { t.at, t.f, t.s, call('GET', P .. 'p:' .. t.id) }
end

local function take(agent, worker, lease_ms, goes_on)
  local t = pop_runnable(agent)
  if not t then return nil end
  t.w, t.at, t.f = worker, t.at + 1, t.f + 1
  move(t, 'IN_PROGRESS', '', 'w', worker, 'at', t.at, 'f', t.f, 'st', NOW_TEXT)
  hold(t, worker, lease_ms, goes_on)
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
local function next_task(agent, worker, lease_ms, goes_on)
  wake_freed()
  local claim = take(agent, worker, lease_ms, goes_on)
  for _ = 1, 3 do
    if claim or not SUBMITS.go_on() then break end
    wake_freed()
    claim = take(agent, worker, lease_ms, goes_on)
  end
  if claim then return claim end
  call('ZADD', P .. 'idle:' .. agent, NOW_TEXT, worker)
  call('ZADD', P .. 'seen', NOW_TEXT, worker)
end

-- Agents and workflows are stopped and go on; what runs, runs on.

-- args: agent, reason, or '' to go on
local function pause_agent(args)
  local key = P .. 'gate:' .. args[1]
  if args[2] ~= '' then
    call('HSET', key, 'pz', args[2])
    call('SADD', P .. 'agents', args[1])
    return 'OK'
  end
  if call('HDEL', key, 'pz') == 1 then serve(args[1]) end
  return 'OK'
end

-- args: agent, least ms between two tasks, 0: none
local function limit_agent(args)
  local key = P .. 'gate:' .. args[1]
  if args[2] ~= '0' then
    call('HSET', key, 'iv', args[2])
    local soonest = NOW + tonumber(args[2])
    if tonumber(call('HGET', key, 'tat') or 0) > soonest then
      call('HSET', key, 'tat', int(soonest)) -- under the former limit the next might begin much later
      serve(args[1])
    end
  elseif call('HDEL', key, 'iv', 'tat') > 0 then
    serve(args[1])
  end
  return 'OK'
end

-- args: workflow, reason, or '' to go on
local function pause_workflow(args)
  local key = P .. 'wf:' .. args[1]
  if call('EXISTS', key) == 0 then return not_found('workflow ' .. args[1] .. ' does not exist') end
  if args[2] ~= '' then
    call('HSET', key, 'pz', args[2])
    call('SADD', P .. 'paused', args[1])
  else
    call('SREM', P .. 'paused', args[1])
    if call('HDEL', key, 'pz') == 0 then return 'OK' end
  end
  for _, id in ipairs(call('LRANGE', P .. 'wt:' .. args[1], 0, -1)) do
    if call('HGET', P .. 't:' .. id, 's') == 'READY' then
      local t = special(load(id))
      if args[2] == '' and t.lw == 'flow' then
        leave_aside(t)
        offer(t)
      elseif args[2] ~= '' and t.lw ~= 'flow' then
        unqueue(t)
        set_aside(t, 'flow')
      end
    end
  end
  return 'OK'
end
