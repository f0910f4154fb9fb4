-- Tasks that come in from a file: held like those of a submit, placed where they stood when it is complete.

do
  -- Of its former life a task keeps neither place nor holder; an open one starts anew.
  local LEFT_OUT = { s = true, q = true, n = true, wt = true, ck = true, rk = true, sb = true, df = true, im = true }
  local LEFT_OUT_OPEN = { w = true, st = true, fi = true, rd = true, cb = true, lw = true, dx = true,
    ho = true, hp = true, hf = true, hu = true }

  -- args: sub, number of workflows, per workflow: id, header, ts; then per task:
  -- id, payload, result or '', number of words, fields and values of its hash...
  local function parse(args)
    local flows, tasks, i = {}, {}, 3
    for _ = 1, tonumber(args[2]) do
      flows[#flows + 1] = { id = args[i], header = args[i + 1], ts = args[i + 2] }
      i = i + 3
    end
    while i <= #args do
      local t = { id = args[i], payload = args[i + 1], result = args[i + 2], f = {} }
      local words = tonumber(args[i + 3])
      for k = i + 4, i + 3 + words, 2 do t.f[args[k]] = args[k + 1] end
      i = i + 4 + words
      tasks[#tasks + 1] = t
    end
    return flows, tasks
  end

  -- The same task here: is it what the file says, or has it gone on from there?
  local function differs(t)
    local v = call('HMGET', P .. 't:' .. t.id, 's', 'fi')
    if call('ZSCORE', P .. 'held', t.id) or not TERMINAL[t.f.s] then return nil end
    if v[1] ~= t.f.s then return 'is ' .. v[1] .. ' here and ' .. t.f.s .. ' in the file' end
    return v[2] ~= t.f.fi and 'has ended at another time than the one in the file' or nil
  end

  local function check(flows, tasks, sub)
    for _, flow in ipairs(flows) do
      local there = call('HGET', P .. 'wf:' .. flow.id, 'header')
      if there and there ~= flow.header then return conflict('workflow ' .. flow.id .. ' exists already and is different') end
    end
    local known = {}
    for _, t in ipairs(tasks) do
      t.there = call('GET', P .. 'p:' .. t.id)
      local why = t.there and (t.there ~= t.payload and 'exists already and is different' or differs(t))
      if why then return conflict('task ' .. t.id .. ' ' .. why) end
      local other = not t.there and not TERMINAL[t.f.s] and t.f.ky and holder_of_key({ id = t.id, ky = t.f.ky })
      if other then return conflict('task ' .. t.id .. ' has the key ' .. t.f.ky .. ', which the open task ' .. other .. ' has') end
      for need in string.gmatch(not TERMINAL[t.f.s] and t.f.nd or '', '%S+') do
        if not known[need] and not may_need(need, sub) then
          return not_found('task ' .. t.id .. ' needs ' .. need .. ', which does not exist')
        end
      end
      known[t.id] = true
    end
  end

  -- Where it will stand, for one that is held.
  local function coming_state(id)
    local v = call('HMGET', P .. 't:' .. id, 'im', 's')
    return v[1] or v[2] or nil
  end

  -- A workflow of which a part is archived counts that part still.
  local function join_workflow(t)
    local flow = t.f.wf
    if call('EXISTS', P .. 'wa:' .. flow) == 1 and call('LPOS', P .. 'wt:' .. flow, t.id) then
      call('DECR', P .. 'wa:' .. flow)
      call('HINCRBY', P .. 'wn:' .. flow, t.f.s, -1)
    else
      call('RPUSH', P .. 'wt:' .. flow, t.id)
    end
  end

  local function write(t, sub)
    local open, bad = tally(t.f.nd or '', t.f.r, function(need)
      local state = coming_state(need)
      if state then add_kid(need, t.id) end
      return state
    end)
    local key, words, ended = P .. 't:' .. t.id, {}, TERMINAL[t.f.s]
    for name, value in pairs(t.f) do
      if not LEFT_OUT[name] and (ended or not LEFT_OUT_OPEN[name]) then
        words[#words + 1] = name
        words[#words + 1] = value
      end
    end
    local seq = next_sequence() + 1
    call('SET', P .. 'seq', int(seq))
    call('HSET', key, unpack(words))
    call('HSET', key, 's', 'PENDING', 'im', t.f.s, 'q', int(seq), 'n', open, 'sb', sub)
    if t.f.s == 'IN_PROGRESS' then call('HINCRBY', key, 'ex', 1) end -- a run without an outcome counts against no limit
    if t.f.s == 'ASSIGNED' then call('HINCRBY', key, 'at', -1) end -- it never began
    if bad and not ended then call('HSET', key, 'cb', bad) end
    if t.f.ky and not ended then call('SET', P .. 'key:' .. t.f.ky, t.id) end
    if t.f.dd and not ended then
      call('ZADD', P .. 'deadlines', t.f.dd, t.id)
      wake_timer(tonumber(t.f.dd))
    end
    call('SET', P .. 'p:' .. t.id, t.payload)
    if t.result ~= '' then call('SET', P .. 'r:' .. t.id, t.result) end
    call('ZADD', P .. 'all', int(seq), t.id)
    call('ZADD', P .. 'held', int(seq), t.id)
    call('SADD', P .. 'agents', t.f.a)
    if t.f.wf then join_workflow(t) end
    local view = { id = t.id, a = t.f.a, nm = t.f.nm, wf = t.f.wf, at = t.f.at }
    count(view, 'PENDING', 1)
    event(view, '', 'PENDING', 'imported')
  end

  -- Answers how many tasks were here already.
  function KEEPING.import(args)
    local sub, here = args[1], 0
    local flows, tasks = parse(args)
    local refused = check(flows, tasks, sub)
    if refused then return refused end
    for _, flow in ipairs(flows) do
      if call('HSETNX', P .. 'wf:' .. flow.id, 'header', flow.header) == 1 then
        call('HSET', P .. 'wf:' .. flow.id, 'ts', flow.ts)
        if cjson.decode(flow.header).atomic then call('HSET', P .. 'wf:' .. flow.id, 'am', 1) end
        call('ZADD', P .. 'wfs', flow.ts, flow.id)
      end
    end
    for _, t in ipairs(tasks) do
      local by = t.there and call('HGET', P .. 't:' .. t.id, 'sb')
      if not t.there then
        write(t, sub)
        call('RPUSH', P .. 'sub:' .. sub, t.id)
      elseif call('ZSCORE', P .. 'held', t.id) and by ~= sub then
        adopt(t.id, sub, 'im', t.f.s)
        call('RPUSH', P .. 'sub:' .. sub, t.id)
      elseif by ~= sub then
        here = here + 1
      end
    end
    call('ZADD', P .. 'subs', int(NOW + SUBMIT_MS), sub)
    wake_timer(NOW + SUBMIT_MS)
    return here
  end

  function IMPORTS.place(t)
    local key, to = P .. 't:' .. t.id, call('HGET', P .. 't:' .. t.id, 'im')
    call('HDEL', key, 'im')
    if not TERMINAL[to] then
      if t.cx then return end_asked(t) end
      if special(t).ky and holder_of_key(t) then
        call('HDEL', key, 'ky')
        t.ky = nil
      end
      reopen_special(t)
      return place(t)
    end
    call('ZREM', P .. 'held', t.id)
    call('HSET', key, 's', to)
    count(t, 'PENDING', -1)
    count(t, to, 1)
    call('ZADD', P .. TERMINAL[to], call('HGET', key, 'fi'), t.id)
    event(t, 'PENDING', to, 'imported')
    t.s = to
    wake_waiters(t)
  end
end
