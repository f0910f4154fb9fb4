-- Timers (leases, retries, submits) and heartbeats.

-- While Redis, or all who use it, were away, nobody could renew: a lease that ran out in such a silence says nothing
-- of its holder. Whoever comes first afterwards gives one more term to those that ran out or soon would.
local function spare_leases(newest)
  local silence, spared = NOW - tonumber(newest), false
  for _, worker in ipairs(call('ZRANGEBYSCORE', P .. 'leases', '-inf', int(NOW + silence))) do
    local lease_ms = lease_of(worker)
    if silence > lease_ms / 2 and tonumber(call('ZSCORE', P .. 'leases', worker)) < NOW + lease_ms / 2
      and call('EXISTS', P .. 'own:' .. worker) == 1 then
      call('ZADD', P .. 'leases', int(NOW + lease_ms), worker)
      spared = true
    end
  end
  return spared
end

local function newest_beat()
  return call('ZRANGE', P .. 'beats', -1, -1, 'WITHSCORES')[2]
end

-- The ticker spares once in a silence: if nobody beats in the term that it gave, the holders are gone.
local function spare_once()
  local newest = newest_beat()
  if not newest or call('GET', P .. 'spared') == newest then return end
  if spare_leases(newest) then call('SET', P .. 'spared', newest) end
end

local function expire_leases()
  spare_once()
  local workers = call('ZRANGEBYSCORE', P .. 'leases', '-inf', NOW_TEXT, 'LIMIT', 0, CHUNK)
  for _, worker in ipairs(workers) do
    call('ZREM', P .. 'leases', worker)
    local ids = call('SMEMBERS', P .. 'own:' .. worker)
    table.sort(ids)
    for _, id in ipairs(ids) do give_back(load(id), 'lease of ' .. worker .. ' ended', true) end
  end
  return #workers == CHUNK
end

-- What has not ended by its deadline has failed; what runs is told to end first.
local function end_late()
  local ids = call('ZRANGEBYSCORE', P .. 'deadlines', '-inf', NOW_TEXT, 'LIMIT', 0, CHUNK)
  for _, id in ipairs(ids) do
    local t, late = load(id), 'its deadline has passed'
    if call('ZSCORE', P .. 'held', id) then
      call('ZADD', P .. 'deadlines', int(NOW + HELD_MS), id) -- its submit is not complete
    else
      call('ZREM', P .. 'deadlines', id)
      if ACTIVE[t.s] then
        tell_to_end(t, late, 'dx', 1)
      elseif not TERMINAL[t.s] then
        unqueue(t)
        measure(t, 'failed')
        end_task(t, 'FAILED', late, 'er', late)
      end
    end
  end
  return #ids == CHUNK
end

local function reopen_gates()
  for _, agent in ipairs(call('ZRANGEBYSCORE', P .. 'reopen', '-inf', NOW_TEXT)) do
    call('ZREM', P .. 'reopen', agent)
    serve(agent)
  end
end

-- Locks of which a former call had not looked at all that wait.
local function wake_the_rest()
  for _, name in ipairs(call('SPOP', P .. 'freed', CHUNK)) do FREED[#FREED + 1] = name end
  wake_freed()
  return call('EXISTS', P .. 'freed') == 1
end

local function release_due()
  local ids = call('ZRANGEBYSCORE', P .. 'delay', '-inf', NOW_TEXT, 'LIMIT', 0, CHUNK)
  for _, id in ipairs(ids) do
    call('ZREM', P .. 'delay', id)
    local t = load(id)
    if t and t.s == 'PENDING' then place(t) end
  end
  return #ids == CHUNK
end

local function end_submits()
  local left = 0
  for _, sub in ipairs(call('ZRANGEBYSCORE', P .. 'subs', '-inf', NOW_TEXT, 'LIMIT', 0, 1)) do
    local some = call('SISMEMBER', P .. 'commits', sub) == 1 and commit_some or abort_some
    left = some(sub, CHUNK)
  end
  return left > 0
end

local function earliest()
  local first
  for _, name in ipairs({ 'leases', 'delay', 'subs', 'deadlines', 'reopen' }) do
    local top = call('ZRANGE', P .. name, 0, 0, 'WITHSCORES')
    if top[2] and (not first or tonumber(top[2]) < first) then first = tonumber(top[2]) end
  end
  return first
end

-- Everything that is due; ms until the next timer, -1: none. A promise to look again is kept even when its
-- timer is gone, so that a busy queue does not wake the ticker with every claim.
local function run_timers()
  local more = expire_leases()
  more = end_late() or more
  more = release_due() or more
  more = wake_the_rest() or more
  reopen_gates()
  more = end_submits() or more
  if more then return 0 end
  local promised = tonumber(call('GET', P .. 'timer') or 0)
  local first = earliest()
  if not first and promised <= NOW then
    call('DEL', P .. 'timer')
    return -1
  end
  first = first or promised
  if first ~= promised then call('SET', P .. 'timer', int(first)) end
  return math.max(0, first - NOW)
end

local function tick()
  return run_timers()
end

-- A sleeping worker that was thought gone, and work that came meanwhile.
local function hand_missed(worker)
  local text = call('HGET', P .. 'workers', worker)
  local agent = text and string.match(text, '^%S+')
  if not agent or not call('ZSCORE', P .. 'idle:' .. agent, worker) then return end
  serve(agent)
end

local function renew(worker, lease_ms)
  local owned, cancelled = call('SMEMBERS', P .. 'own:' .. worker), {}
  if owned[1] then call('ZADD', P .. 'leases', int(NOW + lease_ms), worker) end
  for _, id in ipairs(owned) do
    local reason = call('HGET', P .. 't:' .. id, 'cx')
    if reason then cancelled[#cancelled + 1] = id end
  end
  call('ZADD', P .. 'seen', NOW_TEXT, worker)
  hand_missed(worker)
  return owned, cancelled
end

-- Who is silent in the eyes of most of those alive. A caller that was silent itself (a suspended machine)
-- does not vote this time.
local function suspects(caller, previous, stale_ms)
  local beats = call('ZRANGE', P .. 'beats', 0, -1, 'WITHSCORES')
  local live, silent, out = {}, {}, {}
  local lives = 0
  for i = 1, #beats, 2 do
    if NOW - tonumber(beats[i + 1]) <= stale_ms then
      live[beats[i]] = true
      lives = lives + 1
    else
      silent[#silent + 1] = beats[i]
    end
  end
  if not previous or NOW - previous > stale_ms then return out end
  for _, name in ipairs(silent) do
    local key = P .. 'votes:' .. name
    call('HSET', key, caller, NOW_TEXT)
    call('PEXPIRE', key, int(stale_ms))
    local votes, cast = 0, call('HGETALL', key)
    for i = 1, #cast, 2 do
      if live[cast[i]] and NOW - tonumber(cast[i + 1]) <= stale_ms then votes = votes + 1 end
    end
    if votes * 2 > lives then out[#out + 1] = name end
  end
  return out
end

-- The tasks under a prefix belong to one installation: another would release them as if its own workers had died.
local function own(owner)
  if not owner or owner == '' then return end
  local holder = call('GET', P .. 'owner')
  if holder and holder ~= owner then
    return conflict('another installation (' .. holder .. ") uses this Redis with prefix '" .. P
      .. "'; give this one another redis.prefix")
  end
  if call('PTTL', P .. 'owner') < OWNED_MS / 2 then call('SET', P .. 'owner', owner, 'PX', OWNED_MS) end
end

-- args: owner
local function take_over(args)
  return own(args[1]) or 'OK'
end

-- args: name, worker or '', payload, lease ms, stale ms, owner or ''
local function beat(args)
  local refused = own(args[6])
  if refused then return refused end
  local newest = newest_beat()
  if newest then spare_leases(newest) end
  local previous = tonumber(call('ZSCORE', P .. 'beats', args[1]) or nil)
  call('ZADD', P .. 'beats', NOW_TEXT, args[1])
  call('HSET', P .. 'beat', args[1], args[3])
  call('DEL', P .. 'votes:' .. args[1])
  local owned, cancelled = {}, {}
  if args[2] ~= '' then owned, cancelled = renew(args[2], tonumber(args[4])) end
  local promised = tonumber(call('GET', P .. 'timer') or nil)
  if promised and NOW - promised > 2000 then run_timers() end -- nobody ticks: whoever lives does
  local paused = args[2] ~= '' and call('HGET', P .. 'gate:' .. args[1], 'pz') or ''
  return { owned, cancelled, suspects(args[1], previous, tonumber(args[5])), NOW_TEXT, paused }
end

local function beats()
  local out = { NOW_TEXT }
  local all = call('ZRANGE', P .. 'beats', 0, -1, 'WITHSCORES')
  for i = 1, #all, 2 do
    out[#out + 1] = { all[i], all[i + 1], call('HGET', P .. 'beat', all[i]) or '{}' }
  end
  return out
end

local function forget_beat(args)
  call('ZREM', P .. 'beats', args[1])
  call('HDEL', P .. 'beat', args[1])
  call('DEL', P .. 'votes:' .. args[1])
  return 'OK'
end
