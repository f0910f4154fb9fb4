-- Messages: inboxes, verdicts, answers. Who wrote a message is not known here: readers check its signature.
-- An agent's inbox is a stream with one group; what is in it was not handled to its end.
--
--   mail:in:AGENT      stream  its inbox: ids of messages
--   mail:load          hash    AGENT: bytes of those
--   mail:reader:AGENT  string  the worker that reads it
--   mail:wake:AGENT    list    the reader blocks on it
--   mail:door:AGENT    list    what was refused before it came in, JSON; until it is read
--   msg:MESSAGE        hash    e envelope, g signature, c certificate, ts sent, sz bytes, z with answers, ck token of its
--                              send, wt somebody waits, n receivers still to handle it; for each receiver v:AGENT
--                              verdict (delivered → read → accepted or refused), r: reason, w: instant, b: reader, t: how
--                              many lives have read it, d: handled to its end, a: answer, ag: its signature, ac: its
--                              certificate
--   mail:all           zset    messages by the instant they were sent
--   mail:ended         zset    those that all receivers have handled, by that instant; the oldest are dropped
--   mail:bytes         string  how large those are
--   mail:seen:MESSAGE  string  an id that was dropped and may not come again; an hour
--   mail:key:KEY       string  certificate of a sender's key; a day
--   mail:box:MESSAGE   list    who has said something to it; the sender blocks on it; 2 minutes
--   mail:events        stream  every verdict, trimmed

local POST = {
  GROUP = 'agent', KEPT = 2000, KEPT_BYTES = 64 * 1024 * 1024, EVENTS = 5000, REPORTS = 50,
  KEY_MS = 86400000, SEEN_MS = 3600000, BOX_MS = 120000, FINAL = { accepted = true, refused = true },
}

function POST.key(id) return P .. 'msg:' .. id end

function POST.wake(agent)
  call('RPUSH', P .. 'mail:wake:' .. agent, '1')
  call('LTRIM', P .. 'mail:wake:' .. agent, -1, -1)
end

-- Somebody tried something: the one it was meant for is told, and says it in its log.
function POST.report(agents, id, source, reason)
  for _, agent in ipairs(agents) do
    local key = P .. 'mail:door:' .. agent
    call('RPUSH', key, cjson.encode({ id = id, source = source, reason = reason }))
    call('LTRIM', key, -POST.REPORTS, -1)
    POST.wake(agent)
  end
end

function POST.say(id, agent, verdict, reason)
  local key = POST.key(id)
  call('HSET', key, 'v:' .. agent, verdict, 'r:' .. agent, reason, 'w:' .. agent, NOW_TEXT)
  POST.told(id, agent, verdict)
end

function POST.told(id, agent, what)
  call('XADD', P .. 'mail:events', 'MAXLEN', '~', POST.EVENTS, '*', 'm', id .. ' ' .. agent .. ' ' .. what)
  if call('HGET', POST.key(id), 'wt') then
    call('RPUSH', P .. 'mail:box:' .. id, agent)
    call('PEXPIRE', P .. 'mail:box:' .. id, POST.BOX_MS)
  end
end

-- What has been handled by all is kept for people to look at: so many, so large. Its id is remembered longer.
function POST.prune()
  while true do
    local oldest = call('ZRANGE', P .. 'mail:ended', 0, 0)[1]
    local bytes = tonumber(call('GET', P .. 'mail:bytes') or 0)
    if not oldest or (call('ZCARD', P .. 'mail:ended') <= POST.KEPT and bytes <= POST.KEPT_BYTES) then return end
    local size = call('HGET', POST.key(oldest), 'z')
    call('DECRBY', P .. 'mail:bytes', size or 0)
    call('SET', P .. 'mail:seen:' .. oldest, '1', 'PX', POST.SEEN_MS)
    call('DEL', POST.key(oldest))
    call('ZREM', P .. 'mail:ended', oldest)
    call('ZREM', P .. 'mail:all', oldest)
  end
end

function POST.ended(id)
  call('ZADD', P .. 'mail:ended', NOW_TEXT, id)
  call('INCRBY', P .. 'mail:bytes', call('HGET', POST.key(id), 'z'))
  POST.prune()
end

function POST.is_full(agent, size, most, most_bytes)
  local unread = call('XLEN', P .. 'mail:in:' .. agent)
  local bytes = tonumber(call('HGET', P .. 'mail:load', agent) or 0)
  if unread >= most or bytes + size > most_bytes then return unread end
end

function POST.row(id)
  local v = call('HGETALL', POST.key(id))
  return v[1] and { id, v } or nil
end

-- args: key id, certificate
function POST.register(args)
  call('SET', P .. 'mail:key:' .. args[1], args[2], 'PX', POST.KEY_MS)
  return 'OK'
end

-- args: id, token of this call, envelope, signature, key id, source, most unread, most bytes unread, receivers...
function POST.send(args)
  local id, size, agents = args[1], #args[3], {}
  for i = 9, #args do agents[#agents + 1] = args[i] end
  if call('EXISTS', POST.key(id)) == 1 then
    if call('HGET', POST.key(id), 'ck') == args[2] then return POST.row(id) end -- its first answer was lost
    POST.report(agents, id, args[6], 'it was sent before')
    return conflict('message ' .. id .. ' was sent before; a message is delivered once')
  end
  if call('EXISTS', P .. 'mail:seen:' .. id) == 1 then
    POST.report(agents, id, args[6], 'it was sent before')
    return conflict('message ' .. id .. ' was sent before; a message is delivered once')
  end
  local certificate = call('GET', P .. 'mail:key:' .. args[5])
  if not certificate then
    POST.report(agents, id, args[6], 'nobody knows the key that signed it')
    return not_found('the key ' .. args[5] .. ' that signed message ' .. id .. ' is not known here')
  end
  local full = {}
  for _, agent in ipairs(agents) do
    local unread = POST.is_full(agent, size, tonumber(args[7]), tonumber(args[8]))
    if unread then full[agent] = 'inbox full: ' .. unread .. ' messages that it has not handled' end
  end
  if #agents == 1 and full[agents[1]] then
    return conflict('the inbox of ' .. agents[1] .. ' is full: ' .. call('XLEN', P .. 'mail:in:' .. agents[1])
      .. ' messages that it has not handled')
  end
  call('HSET', POST.key(id), 'e', args[3], 'g', args[4], 'c', certificate, 'ck', args[2], 'ts', NOW_TEXT,
    'sz', size, 'z', size, 'n', #agents)
  call('ZADD', P .. 'mail:all', NOW_TEXT, id)
  for _, agent in ipairs(agents) do
    if full[agent] then
      POST.say(id, agent, 'refused', full[agent])
      call('HSET', POST.key(id), 'd:' .. agent, '1')
      if call('HINCRBY', POST.key(id), 'n', -1) == 0 then POST.ended(id) end
    else
      call('XADD', P .. 'mail:in:' .. agent, '*', 'm', id)
      call('HINCRBY', P .. 'mail:load', agent, size)
      POST.say(id, agent, 'delivered', '')
      POST.wake(agent)
    end
  end
  return POST.row(id)
end

-- Takes an entry out of the inbox for good.
function POST.drop(agent, entry, size)
  call('XACK', P .. 'mail:in:' .. agent, POST.GROUP, entry)
  call('XDEL', P .. 'mail:in:' .. agent, entry)
  if size and call('HINCRBY', P .. 'mail:load', agent, -size) <= 0 then call('HDEL', P .. 'mail:load', agent) end
end

-- What the last life had taken, and not handled to its end, is this one's now; that life is gone.
function POST.inherit(agent, worker)
  local stream = P .. 'mail:in:' .. agent
  redis.pcall('XGROUP', 'CREATE', stream, POST.GROUP, '0', 'MKSTREAM') -- it is there already, but for the first time
  if call('GET', P .. 'mail:reader:' .. agent) == worker then return end
  call('SET', P .. 'mail:reader:' .. agent, worker)
  local from = '0-0'
  repeat
    local got = call('XAUTOCLAIM', stream, POST.GROUP, worker, 0, from, 'COUNT', 500, 'JUSTID')
    from = got[1]
  until from == '0-0'
  for _, consumer in ipairs(call('XINFO', 'CONSUMERS', stream, POST.GROUP)) do
    if consumer[2] ~= worker then call('XGROUP', 'DELCONSUMER', stream, POST.GROUP, consumer[2]) end
  end
end

-- One entry as its reader gets it; nil for what was handled before or was never sent: that is dropped and told.
function POST.read(agent, worker, entry, id)
  local v = call('HMGET', POST.key(id), 'e', 'g', 'c', 'v:' .. agent, 'd:' .. agent, 'b:' .. agent)
  if not v[1] or not v[4] or v[5] then
    POST.drop(agent, entry)
    POST.report({ agent }, id, '', v[5] and 'it was handled before' or 'it is not in the post: nobody sent it to this inbox')
    return nil
  end
  if not POST.FINAL[v[4]] then POST.say(id, agent, 'read', '') end
  if v[6] ~= worker then
    call('HSET', POST.key(id), 'b:' .. agent, worker)
    call('HINCRBY', POST.key(id), 't:' .. agent, 1)
  end
  return { entry, id, v[1], v[2], v[3], v[4], call('HGET', POST.key(id), 't:' .. agent) }
end

-- args: agent, worker, how many, entries it has in hand...; answers the messages, and reports of what was refused
function POST.take(args)
  local agent, worker, limit = args[1], args[2], tonumber(args[3])
  local stream, holding, out, seen = P .. 'mail:in:' .. agent, {}, {}, {}
  for i = 4, #args do holding[args[i]] = true end
  POST.inherit(agent, worker)
  local function give(entry, id)
    if seen[id] then -- twice in one inbox: only somebody beside the post can have done that
      POST.drop(agent, entry)
      return POST.report({ agent }, id, '', 'it stands in the inbox twice')
    end
    seen[id] = true
    if not holding[entry] then out[#out + 1] = POST.read(agent, worker, entry, id) end
  end
  for _, row in ipairs(call('XREADGROUP', 'GROUP', POST.GROUP, worker, 'COUNT', limit + #args - 3, 'STREAMS',
    stream, '0')[1][2]) do
    if row[2] then give(row[1], row[2][2]) else call('XACK', stream, POST.GROUP, row[1]) end
  end
  if #out < limit then
    local fresh = call('XREADGROUP', 'GROUP', POST.GROUP, worker, 'COUNT', limit - #out, 'STREAMS', stream, '>')
    for _, row in ipairs(fresh and fresh[1][2] or {}) do give(row[1], row[2][2]) end
  end
  local reports = call('LRANGE', P .. 'mail:door:' .. agent, 0, -1)
  call('DEL', P .. 'mail:door:' .. agent)
  return { out, reports }
end

-- args: agent, worker, id, entry, verdict, reason, whether that is the end of it, answer or '', its signature, key id
function POST.judge(args)
  local agent, worker, id, entry = args[1], args[2], args[3], args[4]
  local v = call('HMGET', POST.key(id), 'v:' .. agent, 'd:' .. agent, 'b:' .. agent, 'sz')
  if not v[1] then return not_found('message ' .. id .. ' is not in the post of ' .. agent) end
  if v[3] ~= worker then return conflict('message ' .. id .. ' is ' .. v[1] .. ', and not in the hands of ' .. worker) end
  if v[2] or (v[1] == args[5] and args[7] ~= '1') then return v[1] end -- the first answer was lost
  local certificate = args[8] ~= '' and call('GET', P .. 'mail:key:' .. args[10])
  if args[8] ~= '' and not certificate then
    return not_found('the key ' .. args[10] .. ' that signed the answer to ' .. id .. ' is not known here')
  end
  if certificate then
    call('HSET', POST.key(id), 'a:' .. agent, args[8], 'ag:' .. agent, args[9], 'ac:' .. agent, certificate)
    call('HINCRBY', POST.key(id), 'z', #args[8])
  end
  if args[7] == '1' then
    POST.drop(agent, entry, tonumber(v[4]))
    call('HSET', POST.key(id), 'd:' .. agent, '1')
  end
  if v[1] ~= args[5] then
    POST.say(id, agent, args[5], args[6])
  else
    call('HSET', POST.key(id), 'r:' .. agent, args[6])
    POST.told(id, agent, 'answered')
  end
  if args[7] == '1' and call('HINCRBY', POST.key(id), 'n', -1) == 0 then POST.ended(id) end
  return args[5]
end

-- args: id; from now on its box is told of every change
function POST.watch(args)
  if call('EXISTS', POST.key(args[1])) == 0 then return not_found('message ' .. args[1] .. ' does not exist') end
  call('HSET', POST.key(args[1]), 'wt', 1)
  return POST.row(args[1])
end

-- args: id
function POST.unwatch(args)
  if call('EXISTS', POST.key(args[1])) == 1 then call('HDEL', POST.key(args[1]), 'wt') end
  call('DEL', P .. 'mail:box:' .. args[1])
  return 'OK'
end

-- args: ids...; those that are there
function POST.get(args)
  local out = {}
  for _, id in ipairs(args) do out[#out + 1] = POST.row(id) end
  return out
end

-- args: agent or '', limit; the newest first
function POST.list(args)
  local out, limit = {}, tonumber(args[2])
  for first = 0, 1000000, 200 do
    local ids = call('ZREVRANGE', P .. 'mail:all', first, first + 199)
    for _, id in ipairs(ids) do
      if args[1] == '' or call('HEXISTS', POST.key(id), 'v:' .. args[1]) == 1 then out[#out + 1] = POST.row(id) end
      if #out == limit then return out end
    end
    if #ids < 200 then break end
  end
  return out
end
