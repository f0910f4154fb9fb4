-- Cancelling, and running again.

local function cancel_one(t, reason, token, requested, cancelled)
  if ACTIVE[t.s] then
    requested[#requested + 1] = t.id
    return tell_to_end(t, reason, 'ck', token)
  end
  unqueue(t)
  cancelled[#cancelled + 1] = t.id
  for _, id in ipairs(end_task(t, 'CANCELLED', reason, 'er', 'cancelled: ' .. reason, 'ck', token)) do
    cancelled[#cancelled + 1] = id
  end
end

-- args: id, reason, token of this call
local function cancel(args)
  local t = load(args[1])
  if not t then return not_found('task ' .. args[1] .. ' does not exist') end
  local requested, cancelled = {}, {}
  if TERMINAL[t.s] then
    if call('HGET', P .. 't:' .. t.id, 'ck') ~= args[3] then
      return conflict('task ' .. t.id .. ' is ' .. t.s .. ' already')
    end
    return { t.s, { t.id }, {} }
  end
  cancel_one(t, args[2], args[3], requested, cancelled)
  for _, id in ipairs(UNDO.told) do requested[#requested + 1] = id end
  return { t.s, cancelled, requested }
end

-- What the first try of the call has done: the second must not cancel what undoes the workflow.
local function cancelled_then(flow, instant)
  local requested, cancelled = {}, {}
  for _, id in ipairs(call('LRANGE', P .. 'wt:' .. flow, 0, -1)) do
    local v = call('HMGET', P .. 't:' .. id, 's', 'fi', 'cx')
    if v[1] == 'CANCELLED' and v[2] == instant then cancelled[#cancelled + 1] = id end
    if ACTIVE[v[1]] and v[3] then requested[#requested + 1] = id end
  end
  return { '', cancelled, requested }
end

-- args: workflow, reason, token
local function cancel_workflow(args)
  local key = P .. 'wf:' .. args[1]
  if call('EXISTS', key) == 0 then return not_found('workflow ' .. args[1] .. ' does not exist') end
  if call('HGET', key, 'ck') == args[3] then return cancelled_then(args[1], call('HGET', key, 'ct')) end
  call('HSET', key, 'ck', args[3], 'ct', NOW_TEXT)
  local requested, cancelled = {}, {}
  call('DEL', P .. 'undo:' .. args[1]) -- of one that is undone, that is ended, too
  for _, id in ipairs(call('LRANGE', P .. 'wt:' .. args[1], 0, -1)) do
    local t = load(id)
    if not TERMINAL[t.s] then cancel_one(t, args[2], args[3], requested, cancelled) end
  end
  return { '', cancelled, requested }
end

-- Open upstreams of a task that is to run again, and one that forbids it.
local function standing(t)
  local archived = call('HGET', P .. 't:' .. t.id, 'au')
  return tally(t.nd or '', t.r, function(need)
    return call('HGET', P .. 't:' .. need, 's') or need == archived and 'FAILED' or nil
  end)
end

-- The unique key is taken again; a deadline that has passed is not asked for again.
local function reopen_special(t)
  if not t.x then return end
  special(t)
  if t.ky then call('SET', P .. 'key:' .. t.ky, t.id) end
  if t.dd and t.dd > NOW then
    call('ZADD', P .. 'deadlines', int(t.dd), t.id)
    wake_timer(t.dd)
  end
end

local function reopen(t, open, token)
  call('HDEL', P .. 't:' .. t.id, 'cb', 'cx', 'er', 'df', 'st', 'fi', 'ck', 'ds', 'dx')
  reopen_special(t)
  t.dx = false
  call('DEL', P .. 'r:' .. t.id)
  HANDOFF.take_back(t)
  t.cb, t.cx, t.st, t.n = nil, nil, 0, open
  if t.nb and t.nb > NOW then
    move(t, 'PENDING', 'retry', 'ex', t.at, 'n', open, 'rk', token)
    put_off(t, t.nb)
  elseif open == 0 then
    make_ready(t, 'retry', 'ex', t.at, 'n', 0, 'rk', token)
  else
    move(t, 'BLOCKED', 'retry', 'ex', t.at, 'n', open, 'rk', token)
  end
end

-- `t` is open again: dependants cancelled because of it wait for it once more, those that still wait count it anew.
local function reopen_kids(t, token, out)
  local stack = { t }
  while #stack > 0 do
    local one = table.remove(stack)
    for _, id in ipairs(call('LRANGE', P .. 'kids:' .. one.id, 0, -1)) do
      local kid = load(id)
      local open, bad = standing(kid) -- counted afresh: several of its upstreams may open in one call
      if kid.s == 'BLOCKED' or kid.s == 'PENDING' then
        call('HSET', P .. 't:' .. id, 'n', open)
        if kid.cb and not bad then call('HDEL', P .. 't:' .. id, 'cb') end
      elseif kid.s == 'CANCELLED' and kid.cb == one.id then
        if bad then
          call('HSET', P .. 't:' .. id, 'cb', bad)
        elseif not (special(kid).ky and holder_of_key(kid)) then -- else another does what it was to do
          reopen(kid, open, token)
          out[#out + 1] = id
          stack[#stack + 1] = kid
        end
      end
    end
  end
end

-- args: id, token of this call
local function retry(args)
  local t = load(args[1])
  if not t then return not_found('task ' .. args[1] .. ' does not exist') end
  if call('HGET', P .. 't:' .. t.id, 'rk') == args[2] then return { t.id } end
  if t.s ~= 'FAILED' and t.s ~= 'CANCELLED' then
    return conflict('task ' .. t.id .. ' is ' .. t.s .. '; only a FAILED or CANCELLED task can be tried again')
  end
  local refused = UNDO.refusal(t)
  if refused then return conflict(refused) end
  local other = special(t).ky and holder_of_key(t)
  if other then return conflict('task ' .. other .. ' has its key ' .. t.ky .. ' now') end
  local open, bad = standing(t)
  if bad then return conflict('task ' .. t.id .. ' needs ' .. bad .. ', which did not succeed; retry that one') end
  local out = { t.id }
  reopen(t, open, args[2])
  reopen_kids(t, args[2], out)
  return out
end
