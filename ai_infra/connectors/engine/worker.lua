-- What a worker calls: claim, start, finish, give back; and what is called when it has died.

local function register(agent, worker, lease_ms)
  local text = agent .. ' ' .. lease_ms
  if call('HGET', P .. 'workers', worker) ~= text then
    call('HSET', P .. 'workers', worker, text)
    call('SADD', P .. 'agents', agent)
  end
end

-- args: agent, worker, lease ms, ids it holds...
local function claim(args)
  local agent, worker = args[1], args[2]
  register(agent, worker, args[3])
  local t = undelivered(worker, args, 4)
  if t then
    begin_run(t)
    return as_claim(t)
  end
  local claimed = next_task(agent, worker, tonumber(args[3]))
  if claimed then call('ZREM', P .. 'idle:' .. agent, worker) end
  return claimed or false
end

-- args: worker, ids it holds...
local function recover(args)
  local t = undelivered(args[1], args, 2)
  return t and as_claim(t) or false
end

local function not_held(t, id)
  if not t then return not_found('task ' .. id .. ' does not exist') end
  return conflict('task ' .. id .. ' is ' .. t.s .. ' (attempt ' .. t.at .. '), no longer held by this claim')
end

local function is_held(t, worker, fence)
  return t and ACTIVE[t.s] and t.f == tonumber(fence) and t.w == worker
end

-- args: id, worker, fence
local function start(args)
  local t = load(args[1])
  if not is_held(t, args[2], args[3]) then return not_held(t, args[1]) end
  if t.cx and t.s == 'ASSIGNED' then
    end_asked(t)
    return conflict('task ' .. t.id .. ' was cancelled before it began')
  end
  begin_run(t)
  return 'OK'
end

local function retry_or_fail(t, error, reason, retry)
  local v = call('HMGET', P .. 't:' .. t.id, 'dl', 'ex', 'md')
  local tries = t.at - tonumber(v[2] or 0)
  if not retry or tries >= t.mx then
    measure(t, 'failed')
    return end_task(t, 'FAILED', reason, 'er', error, 'df', t.f)
  end
  local delay = math.min(tonumber(v[1] or RETRY_MS) * 2 ^ math.min(tries - 1, 30), tonumber(v[3] or MAX_DELAY_MS))
  delay = delay * (1 - LUCK / 4) -- so that those that failed together do not come back together
  measure(t, 'retried')
  HANDOFF.take_effect(t)
  move(t, 'PENDING', reason, 'er', error, 'df', t.f)
  put_off(t, NOW + delay)
end

local function keep_result(t, result)
  if result ~= '{}' then
    call('SET', P .. 'r:' .. t.id, result)
  elseif t.at > 1 then
    call('DEL', P .. 'r:' .. t.id)
  end
end

local function hand_in(t, verdict, error, reason, retry)
  begin_run(t)
  if verdict == 'ok' then
    measure(t, 'done')
    end_task(t, 'COMPLETED', reason, 'df', t.f)
  elseif verdict == 'cancelled' or t.cx then
    t.cx = t.cx or reason
    end_asked(t, 'df', t.f)
  else
    retry_or_fail(t, error, reason, retry)
  end
end

-- args: id, worker, fence, verdict (ok, failed, cancelled), retry, error, reason, result, next agent, lease ms, holds...
local function finish(args)
  local id, worker, fence = args[1], args[2], args[3]
  local t = load_held(id)
  local again = false
  if is_held(t, worker, fence) then
    keep_result(t, args[8])
    hand_in(t, args[4], args[6], args[7], args[5] == '1')
  else
    again = t and t.w == worker and call('HGET', P .. 't:' .. id, 'df') == fence -- the first answer was lost
    if not again then return not_held(t, id) end
    if not TERMINAL[t.s] then t.s = 'PENDING' end -- as it was then: it has moved on to its next attempt
  end
  if args[9] == '' then return { t.s, false } end
  local given = again and undelivered(worker, args, 11)
  if given then
    begin_run(given)
    return { t.s, as_claim(given) }
  end
  return { t.s, next_task(args[9], worker, tonumber(args[10]), not again) or false }
end

-- args: id, worker, fence
local function return_task(args)
  local t = load(args[1])
  if not is_held(t, args[2], args[3]) then return not_held(t, args[1]) end
  local text = call('HGET', P .. 'workers', args[2])
  if text then call('ZREM', P .. 'idle:' .. string.match(text, '^%S+'), args[2]) end -- not back to itself
  give_back(t, 'given back', false)
  return 'OK'
end

-- args: worker, reason, whether it died
local function release_worker(args)
  return release(args[1], args[2], args[3] == '1')
end

-- args: agent, worker that lives, reason
local function retire(args)
  local out = {}
  local all = call('HGETALL', P .. 'workers')
  for i = 1, #all, 2 do
    if string.match(all[i + 1], '^%S+') == args[1] and all[i] ~= args[2] then
      for _, id in ipairs(release(all[i], args[3], true)) do out[#out + 1] = id end
    end
  end
  return out
end
