-- Waiting and looking: nothing here moves a task.

-- args: token, ttl ms, ids...; answers those that have not ended
local function watch(args)
  local open = {}
  for i = 3, #args do
    local state = call('HGET', P .. 't:' .. args[i], 's')
    if not state then return not_found('task ' .. args[i] .. ' does not exist') end
    if not TERMINAL[state] then open[#open + 1] = args[i] end
  end
  for _, id in ipairs(open) do
    call('HSET', P .. 't:' .. id, 'wt', 1)
    call('SADD', P .. 'waiters:' .. id, args[1])
    if call('PTTL', P .. 'waiters:' .. id) < tonumber(args[2]) then
      call('PEXPIRE', P .. 'waiters:' .. id, args[2])
    end
  end
  return open
end

-- args: token, ids...
local function unwatch(args)
  call('DEL', P .. 'box:' .. args[1])
  for i = 2, #args do call('SREM', P .. 'waiters:' .. args[i], args[1]) end
  return 'OK'
end

local function open_needs(t)
  local out = {}
  for need in string.gmatch(t or '', '%S+') do
    local state = call('HGET', P .. 't:' .. need, 's')
    if state and not TERMINAL[state] then out[#out + 1] = need end
  end
  return out
end

-- What keeps a task that waits for no upstream, a word more (who has the lock, why there is a pause), until when.
local function kept(id, state, aside, agent, workflow, gates)
  if state == 'PENDING' then return '', '', call('ZSCORE', P .. 'delay', id) or '' end
  if state ~= 'READY' then return '', '', '' end
  local lock = string.match(aside or '', '^lock (.*)$')
  if lock then return aside, call('GET', P .. 'lock:' .. lock) or '', '' end
  if aside then return aside, call('HGET', P .. 'wf:' .. workflow, 'pz') or '', '' end
  gates[agent] = gates[agent] or call('HMGET', P .. 'gate:' .. agent, 'pz', 'iv', 'tat')
  local v = gates[agent]
  if v[1] then return 'agent', v[1], '' end
  if v[2] and tonumber(v[3] or 0) > NOW then return 'rate', '', v[3] end
  return '', '', ''
end

local function view(id, gates)
  local v = call('HMGET', P .. 't:' .. id, 's', 'at', 'w', 'ts', 'rd', 'st', 'fi', 'er', 'nd', 'ex', 'ds', 'lw', 'a',
    'wf')
  if not v[1] then return nil end
  local waits = (v[1] == 'BLOCKED' or v[1] == 'PENDING') and open_needs(v[9]) or {}
  return { call('GET', P .. 'p:' .. id), v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8],
    call('GET', P .. 'r:' .. id), waits, v[10] or 0, v[11] or 0, kept(id, v[1], v[12], v[13], v[14], gates) }
end

local function views(ids)
  local out, gates = {}, {}
  for _, id in ipairs(ids) do out[#out + 1] = view(id, gates) end
  return out
end

-- args: ids...
local function get(args)
  for _, id in ipairs(args) do
    if call('EXISTS', P .. 't:' .. id) == 0 then return not_found('task ' .. id .. ' does not exist') end
  end
  return views(args)
end

-- Every task that a worker holds.
local function all_held()
  local out = {}
  for _, worker in ipairs(call('ZRANGE', P .. 'leases', 0, -1)) do
    for _, id in ipairs(call('SMEMBERS', P .. 'own:' .. worker)) do out[#out + 1] = id end
  end
  return out
end

-- Index keys that hold the tasks of a state.
local function sources(state, agent)
  if state == '' then return { 'all' } end
  if state == 'PENDING' then return { 'delay', 'held' } end
  if state == 'BLOCKED' then return { 'blocked' } end
  if state ~= 'READY' then return { TERMINAL[state] } end
  local out = {}
  for _, name in ipairs(agent ~= '' and { agent } or call('SMEMBERS', P .. 'agents')) do
    out[#out + 1] = 'ready:' .. name
    out[#out + 1] = 'aside:' .. name
  end
  return out
end

-- Indexes that are in the order of a listing: by sequence, or by the end.
local IN_ORDER = { [''] = true, BLOCKED = true, COMPLETED = true, FAILED = true, CANCELLED = true }
local PAGE = 200

-- Calls `visit` with ids until it answers true, or `scan` ids of each index were seen.
local function each_candidate(state, agent, workflow, scan, visit)
  if workflow ~= '' then
    for _, id in ipairs(call('LRANGE', P .. 'wt:' .. workflow, 0, -1)) do visit(id) end
    return
  end
  if ACTIVE[state] then
    for _, id in ipairs(all_held()) do visit(id) end
    return
  end
  for _, name in ipairs(sources(state, agent)) do
    for first = 0, scan - 1, PAGE do
      local ids = call('ZREVRANGE', P .. name, first, math.min(first + PAGE, scan) - 1)
      for _, id in ipairs(ids) do
        if visit(id) then return end
      end
      if #ids < PAGE then break end
    end
  end
end

-- How many tasks are held, by workflow and by agent.
local function held_by(field)
  local out = {}
  for _, id in ipairs(all_held()) do
    local name = call('HGET', P .. 't:' .. id, field)
    if name then out[name] = (out[name] or 0) + 1 end
  end
  return out
end

-- Whether this agent surely has no such task. READY and held ones are not counted, but soon looked through.
local function has_none(state, agent)
  if agent == '' then return false end
  if state ~= '' then return not UNCOUNTED[state] and tonumber(call('HGET', P .. 'n:' .. agent, state) or 0) == 0 end
  return call('EXISTS', P .. 'n:' .. agent, P .. 'ready:' .. agent, P .. 'aside:' .. agent) == 0 and not held_by('a')[agent]
end

-- args: state or '', agent or '', workflow or '', limit, most tasks to look at
local function list(args)
  local state, agent, limit = args[1], args[2], tonumber(args[4])
  if has_none(state, agent) then return {} end
  local found, in_order = {}, args[3] == '' and IN_ORDER[state]
  each_candidate(state, agent, args[3], tonumber(args[5]), function(id)
    local v = call('HMGET', P .. 't:' .. id, 's', 'a', 'q')
    if v[1] and (state == '' or v[1] == state) and (agent == '' or v[2] == agent) then
      found[#found + 1] = { id, tonumber(v[3]) }
      return in_order and #found == limit
    end
  end)
  if not in_order then table.sort(found, function(x, y) return x[2] > y[2] end) end
  local ids = {}
  for i = 1, math.min(#found, limit) do ids[i] = found[i][1] end
  return views(ids)
end

-- args: beginning of an id, limit, most tasks to look at (newest first)
local function find(args)
  if call('EXISTS', P .. 't:' .. args[1]) == 1 then return { args[1] } end
  local out = {}
  for _, id in ipairs(call('ZREVRANGE', P .. 'all', 0, tonumber(args[3]) - 1)) do
    if string.sub(id, 1, #args[1]) == args[1] then
      out[#out + 1] = id
      if #out == tonumber(args[2]) then break end
    end
  end
  return out
end

local function workflow_row(id, active)
  local counted, ready = call('HGETALL', P .. 'wn:' .. id), call('LLEN', P .. 'wt:' .. id) - active
  for i = 2, #counted, 2 do ready = ready - counted[i] end
  counted[#counted + 1], counted[#counted + 2] = 'READY', ready
  counted[#counted + 1], counted[#counted + 2] = 'IN_PROGRESS', active
  local v = call('HMGET', P .. 'wf:' .. id, 'header', 'pz', 'ud', 'us', 'uw')
  return { v[1], counted, v[2] or '', { v[3] or '', v[4] or '', v[5] or '' } }
end

-- args: workflow
local function workflow(args)
  if call('EXISTS', P .. 'wf:' .. args[1]) == 0 then return not_found('workflow ' .. args[1] .. ' does not exist') end
  local row = workflow_row(args[1], held_by('wf')[args[1]] or 0)
  row[5] = views(call('LRANGE', P .. 'wt:' .. args[1], 0, -1))
  return row
end

-- args: limit
local function list_workflows(args)
  local out, active = {}, held_by('wf')
  for _, id in ipairs(call('ZREVRANGE', P .. 'wfs', 0, tonumber(args[1]) - 1)) do
    out[#out + 1] = workflow_row(id, active[id] or 0)
  end
  return out
end

-- Those that are paused, rows as in a listing.
local function paused_workflows()
  local ids, out = call('SMEMBERS', P .. 'paused'), {}
  local active = ids[1] and held_by('wf')
  table.sort(ids)
  for _, id in ipairs(ids) do
    if call('HGET', P .. 'wf:' .. id, 'pz') then out[#out + 1] = workflow_row(id, active[id] or 0) end
  end
  return out
end

local function last_hour(agent)
  local sum, first = { 0, 0, 0, 0, 0 }, math.floor(NOW / 60000) - 59
  for _, minute in ipairs(call('ZRANGEBYSCORE', P .. 'minutes:' .. agent, int(first), '+inf')) do
    local v = call('HMGET', P .. 'm:' .. agent .. ':' .. minute, 'done', 'failed', 'retried', 'wait_ms', 'run_ms')
    for i = 1, 5 do sum[i] = sum[i] + tonumber(v[i] or 0) end
  end
  return sum
end

local function counts()
  local out, active = {}, held_by('a')
  for _, agent in ipairs(call('SMEMBERS', P .. 'agents')) do
    local gate_of = call('HMGET', P .. 'gate:' .. agent, 'pz', 'iv')
    out[#out + 1] = { agent, call('HGETALL', P .. 'n:' .. agent), call('ZCARD', P .. 'idle:' .. agent), last_hour(agent),
      call('ZCARD', P .. 'ready:' .. agent) + call('ZCARD', P .. 'aside:' .. agent), active[agent] or 0,
      gate_of[1] or '', gate_of[2] or 0 }
  end
  return out
end
