-- Upgrade: data that an older library wrote, brought to the shape of this one. Run once, when this library is loaded.

-- Before version 3 a lease was a task's, and the queue's score had another base.
local function leases_to_workers()
  for _, id in ipairs(call('ZRANGE', P .. 'lease', 0, -1)) do
    local worker = call('HGET', P .. 't:' .. id, 'w')
    call('ZADD', P .. 'leases', 'GT', call('ZSCORE', P .. 'lease', id), worker)
  end
  call('DEL', P .. 'lease')
end

local function scores_of(agent)
  local ids = call('ZRANGE', P .. 'ready:' .. agent, 0, -1)
  for _, id in ipairs(ids) do call('ZADD', P .. 'ready:' .. agent, queue_score(load(id)), id) end
end

-- That a task has dependants stood only in their list.
local function mark_upstreams()
  for _, id in ipairs(call('ZRANGE', P .. 'all', 0, -1)) do
    if call('EXISTS', P .. 'kids:' .. id) == 1 then call('HSET', P .. 't:' .. id, 'k', 1) end
  end
end

local function upgrade()
  if tonumber(call('GET', P .. 'schema') or 0) >= VERSION then return 'OK' end
  leases_to_workers()
  mark_upstreams()
  for _, agent in ipairs(call('SMEMBERS', P .. 'agents')) do scores_of(agent) end
  call('SET', P .. 'schema', VERSION)
  return 'OK'
end
