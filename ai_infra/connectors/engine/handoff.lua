-- Handing a task over to another agent: at once while it waits; when it runs, as soon as its worker has stopped it.

local HANDOFF = {}

-- `undo`: its undo task, for the other agent, or ''
function HANDOFF.change_agent(t, agent, payload, undo)
  call('HSET', P .. 't:' .. t.id, 'a', agent)
  if undo ~= '' then call('HSET', P .. 't:' .. t.id, 'un', undo) end
  call('SET', P .. 'p:' .. t.id, payload)
  call('SADD', P .. 'agents', agent)
  t.a = agent
end

function HANDOFF.take_back(t)
  call('HDEL', P .. 't:' .. t.id, 'ho', 'hp', 'hf', 'hu')
end

-- The run of a task has ended, and the task has not: if it was to be handed over, that happens now.
function HANDOFF.take_effect(t)
  local v = call('HMGET', P .. 't:' .. t.id, 'ho', 'hp', 'hf', 'hu')
  if not v[1] then return end
  HANDOFF.take_back(t)
  if tonumber(v[3]) == t.f then HANDOFF.change_agent(t, v[1], v[2], v[4]) end -- else it was asked of an earlier run
end

-- It waits: the same state, in the queue of another.
function HANDOFF.move_waiting(t, agent, payload, undo)
  local reason = 'handed over from ' .. t.a .. ' to ' .. agent
  unqueue(t)
  count(t, t.s, -1)
  HANDOFF.change_agent(t, agent, payload, undo)
  count(t, t.s, 1)
  event(t, t.s, t.s, reason)
  if t.s == 'READY' then offer(t) end
end

-- args: id, agent it is thought to belong to, agent that gets it, its spec then, that of its undo task or ''
function HANDOFF.hand_over(args)
  local t, agent = load(args[1]), args[3]
  if not t then return not_found('task ' .. args[1] .. ' does not exist') end
  if TERMINAL[t.s] then return conflict('task ' .. t.id .. ' is ' .. t.s .. ' already; there is nothing to hand over') end
  if t.cx then return conflict('task ' .. t.id .. ' is being cancelled') end
  if t.a == agent then
    HANDOFF.take_back(t)
    return 'done'
  end
  if t.a ~= args[2] then return conflict('task ' .. t.id .. ' belongs to ' .. t.a .. ' by now, not to ' .. args[2]) end
  if call('ZSCORE', P .. 'held', t.id) then return conflict('the submit of task ' .. t.id .. ' is not complete yet') end
  if ACTIVE[t.s] then
    call('HSET', P .. 't:' .. t.id, 'ho', agent, 'hp', args[4], 'hf', t.f, 'hu', args[5])
    call('RPUSH', P .. 'inbox:' .. t.w, cjson.encode({ kind = 'handoff', task = t.id, fence = t.f, reason = agent }))
    return 'asked'
  end
  HANDOFF.move_waiting(t, agent, args[4], args[5])
  return 'done'
end
