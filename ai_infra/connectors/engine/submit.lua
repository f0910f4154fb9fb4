-- Submitting: written first, released when complete, undone when it never is.

local IMPORTS = {} -- how tasks from a file are placed: import.lua

-- Places a held task, or one whose time has come: where its upstreams say.
local function place(t)
  special(t)
  if not t.cb and t.nb and t.nb > NOW then
    call('ZREM', P .. 'held', t.id)
    call('ZADD', P .. 'delay', int(t.nb), t.id)
    wake_timer(t.nb)
  elseif t.cb then
    local up = load(t.cb)
    local text = up and cause_text(up) or 'an upstream has failed'
    end_task(t, 'CANCELLED', text, 'er', text)
  elseif t.n <= 0 then -- below, when several upstreams of an any_done ended while it was held
    make_ready(t, t.at > 0 and 'retry' or '')
  else
    move(t, 'BLOCKED', '')
  end
end

-- args: sub, final, header id, header JSON, ms that a step of priority is worth (0: no age is), then per task:
-- id, name, agent, priority, max attempts, rule, workflow, payload, number of needs, needs...,
-- number of further fields, fields and values of the hash...
local function parse_submit(args)
  local tasks, i = {}, 6
  while i <= #args do
    local t = { id = args[i], nm = args[i + 1], a = args[i + 2], p = args[i + 3], mx = args[i + 4],
      r = args[i + 5], wf = args[i + 6], payload = args[i + 7], needs = {}, more = {} }
    i = i + 9
    for k = 1, tonumber(args[i - 1]) do t.needs[k] = args[i + k - 1] end
    i = i + #t.needs + 1
    for k = 1, 2 * tonumber(args[i - 1]), 2 do
      t.more[k], t.more[k + 1] = args[i + k - 1], args[i + k]
      t[args[i + k - 1]] = args[i + k]
    end
    i = i + #t.more
    tasks[#tasks + 1] = t
  end
  return tasks
end

-- Tasks of another submit that is not complete may still be undone.
local function may_need(need, sub)
  local v = call('HMGET', P .. 't:' .. need, 's', 'sb')
  if v[1] == 'PENDING' and v[2] ~= sub and call('ZSCORE', P .. 'held', need) then
    return call('SISMEMBER', P .. 'commits', v[2]) == 1
  end
  return v[1]
end

-- Another task that has not ended and was submitted with the same unique key.
local function holder_of_key(t)
  local holder = call('GET', P .. 'key:' .. t.ky)
  if not holder or holder == t.id then return nil end
  local state = call('HGET', P .. 't:' .. holder, 's')
  return state and not TERMINAL[state] and holder or nil
end

local function check_submit(tasks, sub)
  local known, closed = {}, {}
  for _, t in ipairs(tasks) do
    t.same = t.ky and holder_of_key(t)
    local there = call('GET', P .. 'p:' .. t.id)
    if there and there ~= t.payload then
      return conflict('task ' .. t.id .. ' exists already and is different; give the new one another id')
    end
    t.there = there
    if not there and t.wf ~= '' and closed[t.wf] == nil then
      closed[t.wf] = call('HGET', P .. 'wf:' .. t.wf, 'ud')
      if closed[t.wf] then return conflict('workflow ' .. t.wf .. ' was undone and takes no more tasks; run it again') end
    end
    for _, need in ipairs(t.needs) do
      if not known[need] and not may_need(need, sub) then
        return not_found('task ' .. t.id .. ' needs ' .. need .. ', which does not exist')
      end
    end
    known[t.id] = true
  end
end

-- Strictly growing, and near to the clock, so that a difference of two is an age.
local function next_sequence()
  local last = tonumber(call('GET', P .. 'seq') or 0)
  return math.max(last, (NOW - EPOCH_MS) * 64)
end

local function add_kid(need, id)
  if call('RPUSH', P .. 'kids:' .. need, id) == 1 then call('HSET', P .. 't:' .. need, 'k', 1) end
end

local function open_needs_of(t)
  local open, bad, ended = 0, nil, false
  for _, need in ipairs(t.needs) do
    local state = call('HGET', P .. 't:' .. need, 's')
    if TERMINAL[state] then ended = true else open = open + 1 end
    if (state == 'FAILED' or state == 'CANCELLED') and t.r == 'all_succeeded' then bad = need end
    add_kid(need, t.id)
  end
  if t.r == 'any_done' then open = (ended or open == 0) and 0 or 1 end
  return open, bad
end

-- Where a task stands when it need not be held; PENDING: place() finds out.
local function first_state(t, whole, open, bad)
  if not whole or bad or t.nb then return 'PENDING' end
  return open > 0 and 'BLOCKED' or 'READY'
end

local function enter(t, state, seq)
  event(t, '', 'PENDING', '')
  if state == 'READY' then
    event(t, 'PENDING', 'READY', '')
    return offer(t)
  end
  call('ZADD', P .. (state == 'BLOCKED' and 'blocked' or 'held'), int(seq), t.id)
  count(t, state, 1)
  if state == 'BLOCKED' then event(t, 'PENDING', 'BLOCKED', '') end
end

-- A step of priority is worth `step` of age: what waits longer than that goes before what is one step higher.
-- `whole`: this call brings all of the submit, so that nothing has to be held; else its tasks are PENDING until commit.
local function write_task(t, sub, seq, step, whole)
  local open, bad = open_needs_of(t)
  local key, state = P .. 't:' .. t.id, first_state(t, whole, open, bad)
  local score = int((10 - t.p) * step + seq)
  call('HSET', key, 's', state, 'a', t.a, 'p', t.p, 'q', int(seq), 'n', open, 'r', t.r, 'at', 0, 'mx', t.mx,
    'f', 0, 'nm', t.nm, 'ts', NOW_TEXT, 'sb', sub, 'sc', score, unpack(t.more))
  if state == 'READY' then call('HSET', key, 'rd', NOW_TEXT) end
  if t.wf ~= '' then call('HSET', key, 'wf', t.wf) end
  if #t.needs > 0 then call('HSET', key, 'nd', table.concat(t.needs, ' ')) end
  if bad then call('HSET', key, 'cb', bad) end
  if t.ky then call('SET', P .. 'key:' .. t.ky, t.id) end
  if t.dd then
    call('ZADD', P .. 'deadlines', t.dd, t.id)
    wake_timer(tonumber(t.dd))
  end
  call('SET', P .. 'p:' .. t.id, t.payload)
  call('ZADD', P .. 'all', int(seq), t.id)
  call('SADD', P .. 'agents', t.a)
  if t.wf ~= '' then call('RPUSH', P .. 'wt:' .. t.wf, t.id) end
  t.placed = state ~= 'PENDING'
  local view = { id = t.id, a = t.a, nm = t.nm, s = state, at = 0, f = 0, x = t.x, sc = score }
  if t.wf ~= '' then view.wf = t.wf end
  enter(view, state, seq)
end

local function write_header(id, header)
  if id == '' or call('EXISTS', P .. 'wf:' .. id) == 1 then return end
  call('HSET', P .. 'wf:' .. id, 'header', header, 'ts', NOW_TEXT)
  if cjson.decode(header).atomic then call('HSET', P .. 'wf:' .. id, 'am', 1) end
  call('ZADD', P .. 'wfs', NOW_TEXT, id)
end

-- Releases up to `limit` tasks of a complete submit; what is left. Once begun, tick() carries it to its end, and so
-- do workers that find nothing to do.
local function commit_some(sub, limit)
  call('ZADD', P .. 'subs', NOW_TEXT, sub)
  call('SADD', P .. 'commits', sub)
  local put = string.sub(sub, 1, 4) == 'imp-' and IMPORTS.place or place
  for _, id in ipairs(call('LPOP', P .. 'sub:' .. sub, limit) or {}) do
    local t = load(id)
    if t and t.s == 'PENDING' and call('ZSCORE', P .. 'held', id) then put(t) end
  end
  local left = call('LLEN', P .. 'sub:' .. sub)
  if left == 0 then
    call('ZREM', P .. 'subs', sub)
    call('SREM', P .. 'commits', sub)
  else
    wake_timer(NOW)
  end
  return left
end

function SUBMITS.go_on()
  local sub = call('SRANDMEMBER', P .. 'commits')
  if sub then commit_some(sub, CHUNK) end
  return sub
end

-- The last part of a submit in parts commits it: its tasks are released from then on, whoever dies.
local function submit(args)
  local sub, final = args[1], args[2] == '1'
  local tasks = parse_submit(args)
  local there = args[3] ~= '' and call('HGET', P .. 'wf:' .. args[3], 'header')
  if there and there ~= args[4] then
    return conflict('workflow ' .. args[3] .. ' exists already and is different; give the new one another id')
  end
  local refused = check_submit(tasks, sub)
  if refused then return refused end
  write_header(args[3], args[4])
  UNDO.mark(tasks)
  local seq, same = next_sequence(), {}
  local step = math.min(NEVER, tonumber(args[5]) * 64)
  if step == 0 then step = NEVER end
  for i, t in ipairs(tasks) do
    if t.same then
      same[#same + 1] = i
      same[#same + 1] = t.same
    elseif not t.there then
      seq = seq + 1
      write_task(t, sub, seq, step, final and sub == '')
    elseif not final then
      call('HSET', P .. 't:' .. t.id, 'sb', sub) -- left by a submit that broke off: this one goes on with it
    end
    if sub ~= '' and not t.same then call('RPUSH', P .. 'sub:' .. sub, t.id) end
  end
  call('SET', P .. 'seq', int(seq))
  if final and sub ~= '' then
    commit_some(sub, 2 * CHUNK)
  elseif final then
    for _, t in ipairs(tasks) do
      local view = not t.same and not t.placed and load(t.id)
      if view and view.s == 'PENDING' and call('ZSCORE', P .. 'held', t.id) then place(view) end
    end
  else
    call('ZADD', P .. 'subs', int(NOW + SUBMIT_MS), sub)
    wake_timer(NOW + SUBMIT_MS)
  end
  return same
end

local function remove_task(t)
  for need in string.gmatch(t.nd or '', '%S+') do call('LREM', P .. 'kids:' .. need, 0, t.id) end
  call('DEL', P .. 't:' .. t.id, P .. 'p:' .. t.id, P .. 'r:' .. t.id, P .. 'kids:' .. t.id)
  call('ZREM', P .. 'all', t.id)
  call('ZREM', P .. 'held', t.id)
  if t.x then forget_special(t) end
  count(t, 'PENDING', -1)
  if t.wf then
    call('LREM', P .. 'wt:' .. t.wf, 0, t.id)
    if call('LLEN', P .. 'wt:' .. t.wf) == 0 then
      call('DEL', P .. 'wf:' .. t.wf, P .. 'wn:' .. t.wf)
      call('ZREM', P .. 'wfs', t.wf)
    end
  end
end

-- Undoes a submit that was never completed: it was not acknowledged, so nothing is lost.
local function abort_some(sub, limit)
  local ids = call('RPOP', P .. 'sub:' .. sub, limit) or {} -- dependants come off before their upstreams
  for _, id in ipairs(ids) do
    local t = load(id)
    if t and t.sb == sub and call('ZSCORE', P .. 'held', id) then remove_task(t) end
  end
  local left = call('LLEN', P .. 'sub:' .. sub)
  if left == 0 then call('ZREM', P .. 'subs', sub) end
  return left
end

local function commit(args)
  if not call('ZSCORE', P .. 'subs', args[1]) and call('EXISTS', P .. 'sub:' .. args[1]) == 0 then return 0 end
  return commit_some(args[1], tonumber(args[2]))
end

local function abort(args)
  if call('SISMEMBER', P .. 'commits', args[1]) == 1 then return conflict('submit ' .. args[1] .. ' is being released') end
  return abort_some(args[1], tonumber(args[2]))
end
